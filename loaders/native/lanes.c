/* Huffman decoding of the segments under a crop, two at a time.
 *
 * The end of a code is known only after its lookup, so one segment's codes form a chain of
 * dependent loads and shifts. Two segments have two independent chains. Segments come from one
 * queue: a lane that has finished one takes the next, so that both lanes work until the last
 * segment.
 */

#include <stdlib.h>
#include <string.h>

#include "huffman.h"
#include "lanes.h"
#include "stages.h"

/* State that changes with each code: few values, so that two lanes fit the registers. */
struct position {
    uint64_t bit;               /* position of the next code: 8 times its byte's address, plus the bit */
    int64_t k;                  /* next coefficient of the block, in zigzag order */
    JCOEF *block;
    const struct huffman *ac;
};

/* The next 57 bits and more, from the highest down. */
INLINE uint64_t window(uint64_t bit) {
    uint64_t word;
    memcpy(&word, (const uint8_t *)(uintptr_t)(bit >> 3), 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word << (bit & 7);
}

/* A segment that is being decoded. */
struct lane {
    uint8_t *clean, *clean_end; /* its bytes, without the zeros that are stuffed after each 0xFF */
    int next_block;             /* in the MCU */
    int64_t mcus_left;          /* in the segment, with the one that is being decoded */
    int predicted[MAX_COMPS_IN_SCAN];
    JCOEF *blocks[D_MAX_BLOCKS_IN_MCU];     /* target of each block of the MCU */
};

/* As open_segment in kernel_huffman.c. Begins a lane's next segment; 0 if none is left. */
static int open_lane(struct lanes *lanes, struct lane *lane, struct position *position) {
    const struct entropy *entropy = lanes->entropy;
    int64_t number = lanes->next_segment++;
    while (number < entropy->num_segments && entropy->segments[number].end == 0)     /* no crop needs it */
        number = lanes->next_segment++;
    if (number >= entropy->num_segments)
        return 0;
    const uint8_t *from = entropy->jpeg + entropy->segments[number].begin, *end = entropy->jpeg + entropy->segments[number].end;
    uint8_t *to = lane->clean;
    while (1) {
        const uint8_t *escape = from < end ? memchr(from, 0xFF, end - from) : NULL;
        if (escape == NULL || escape + 1 >= end)
            fail(entropy);
        memcpy(to, from, escape - from);
        to += escape - from;
        from = escape + 2;
        if (escape[1] != 0)
            break;              /* read_index has checked the marker at its end */
        *to++ = 0xFF;
    }
    if (from != end)
        fail(entropy);
    memset(to, 0, PADDING);
    lane->clean_end = to;
    lane->next_block = 0;
    lane->mcus_left = entropy->interval;
    memset(lane->predicted, 0, sizeof lane->predicted);
    int64_t row = number / lanes->segments_per_row, column = number % lanes->segments_per_row * entropy->interval;
    for (int b = 0; b < lanes->blocks_in_mcu; b++) {
        const struct mcu_block *block = &lanes->mcu[b];
        int64_t y = row * block->down + block->y, x = column * block->across + block->x;
        lane->blocks[b] = block->coefficients + (y * block->blocks_per_row + x) * DCTSIZE2;
    }
    position->bit = 8 * (uint64_t)(uintptr_t)lane->clean;
    return 1;
}

/* Same as close_segment: all bits are used except for less than a byte of padding. */
static void close_lane(const struct lanes *lanes, const struct lane *lane, uint64_t bit) {
    int64_t left = (int64_t)(8 * (uint64_t)(uintptr_t)lane->clean_end - bit);
    if (left < 0 || left > 7)
        fail(lanes->entropy);
}

/* The begin of a lane's first or next segment; k = 0 if none is left. By value: a position whose address is known stays in
 * memory instead of registers. */
__attribute__((noinline)) static struct position next_segment(struct lanes *lanes, struct lane *lane) {
    struct position position = {.k = 1};
    if (!open_lane(lanes, lane, &position))
        position.k = 0;
    return position;
}

/* Begin the lane's next block: clear it and decode its first value. Leaves 29 bits in `word`.
 * Returns 0 if no segment is left. */
INLINE int begin_block(struct lanes *lanes, struct lane *lane, struct position *position, uint64_t *word) {
    struct entropy *entropy = lanes->entropy;
    if ((position->k > DCTSIZE2 && position->k <= END_RUN) || position->bit >> 3 > (uint64_t)(uintptr_t)lane->clean_end + 8)
        fail(entropy);
    if (lane->next_block == lanes->blocks_in_mcu) {
        lane->next_block = 0;
        if (--lane->mcus_left == 0) {
            close_lane(lanes, lane, position->bit);
            *position = next_segment(lanes, lane);
            if (position->k == 0)
                return 0;
        }
    }
    int b = lane->next_block++;
    const struct mcu_block *mcu_block = &lanes->mcu[b];
    JCOEF *block = lane->blocks[b];
    lane->blocks[b] = block + mcu_block->across * DCTSIZE2;
    memset(block, 0, DCTSIZE2 * sizeof *block);

    *word = window(position->bit);
    const struct code *code = next_code(entropy, mcu_block->dc, *word, 1);
    int *predicted = &lane->predicted[mcu_block->component];
    if (code->shift < 64)
        *predicted += value_of(code, *word);
    *word <<= code->total;
    position->bit += code->total;
    block[0] = (JCOEF)*predicted;
    position->block = block;
    position->ac = mcu_block->ac;
    position->k = 1;
    return 1;
}

/* Store the value of a code in the block. Returns 1 if the block continues. */
INLINE int put_value(const struct code *code, struct position *position, uint64_t *word) {
    int64_t k = position->k + code->run;
    position->block[ZIGZAG[k]] = (JCOEF)value_of(code, *word);
    *word <<= code->total;
    position->bit += code->total;
    position->k = k + 1;
    return k + 1 < DCTSIZE2;
}

/* One code, of a value or the end of a block. Needs 26 bits in `word`. Returns 0 if no segment is
 * left. */
INLINE int step(struct lanes *lanes, struct lane *lane, struct position *position, uint64_t *word) {
    const uint32_t short_code = position->ac->short_codes[*word >> (64 - SHORT_BITS)];
    if (__builtin_expect(short_code != 0, 1)) {
        const int64_t k = position->k + (short_code >> 8 & 0xFF);
        position->block[ZIGZAG[k]] = (JCOEF)(short_code >> 16);     /* at the end of a block, the last one is still 0 */
        *word <<= short_code & 63;
        position->bit += short_code & 0xFF;
        position->k = k + 1;
        if (__builtin_expect(k + 1 < DCTSIZE2, 1))
            return 1;
    } else {
        const struct code *code = next_code(lanes->entropy, position->ac, *word, 0);
        if (code->shift < 64) {
            if (put_value(code, position, word))
                return 1;
        } else {
            *word <<= code->total;
            position->bit += code->total;
            if (code->run == 15 && (position->k += 16) < DCTSIZE2)
                return 1;
        }
    }
    return begin_block(lanes, lane, position, word);
}

INLINE void decode(struct lanes *lanes) {
    struct lane lane[2];
    uint64_t first_word, second_word;
    lane[0].clean = lanes->clean[0], lane[1].clean = lanes->clean[1];
    struct position first = next_segment(lanes, &lane[0]);
    int has_first = first.k > 0 && begin_block(lanes, &lane[0], &first, &first_word);
    struct position second = next_segment(lanes, &lane[1]);
    int has_second = second.k > 0 && begin_block(lanes, &lane[1], &second, &second_word);
    while (has_first && has_second) {
        first_word = window(first.bit);
        second_word = window(second.bit);
        if (!(has_first = step(lanes, &lane[0], &first, &first_word)))
            break;
        if (!(has_second = step(lanes, &lane[1], &second, &second_word)))
            break;
        if (!(has_first = step(lanes, &lane[0], &first, &first_word)))
            break;
        has_second = step(lanes, &lane[1], &second, &second_word);
    }
    struct lane *last = has_first ? &lane[0] : &lane[1];
    struct position rest = has_first ? first : second;
    int has_rest = has_first || has_second;
    while (has_rest) {
        uint64_t word = window(rest.bit);
        has_rest = step(lanes, last, &rest, &word);
    }
}

void decode_lanes_scalar(struct lanes *lanes) {
    decode(lanes);
}

#if HAS_AVX2
/* The same code: BMI2's shifts take a third of the instructions, and save a register. */
TARGET_AVX2
void decode_lanes_avx2(struct lanes *lanes) {
    decode(lanes);
}
#endif
