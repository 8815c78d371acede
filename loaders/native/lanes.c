/* Huffman decoding of the segments under a crop, three at a time.
 *
 * The end of a code is known only after its lookup, so one segment's codes form a chain of
 * dependent loads and shifts. Three segments have three independent chains. Segments come from one
 * queue: a lane that has finished one takes the next, so that all lanes work until the last
 * segments.
 */

#include <stdlib.h>
#include <string.h>

#include "huffman.h"
#include "lanes.h"
#include "stages.h"

/* State that changes with each code: few values, so that lanes fit the registers. */
struct position {
    const uint8_t *at;          /* the byte of the next bit when `word` was read */
    uint64_t word;              /* the next bits, from the highest down, and a bit of 1 after them */
    int64_t k;                  /* next coefficient of the block, in zigzag order */
    JCOEF *block;
    const struct huffman *ac;
};

enum { WORD_BITS = 56 };        /* the least that read_word leaves in `word` */

/* Drop the bits that were used, and read those after them. */
INLINE void read_word(struct position *position) {
    const int used = __builtin_ctzll(position->word);     /* from the first bit of the byte `at` */
    uint64_t word;
    position->at += used >> 3;
    memcpy(&word, position->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    position->word = (word | 1) << (used & 7);
}

/* A segment that is being decoded. */
struct lane {
    uint8_t *clean, *clean_end; /* its bytes, without the zeros that are stuffed after each 0xFF */
    int next_block;             /* in the MCU */
    int64_t blocks_left;        /* in the segment */
    int predicted[MAX_COMPS_IN_SCAN];
    JCOEF *blocks[D_MAX_BLOCKS_IN_MCU];     /* target of each block of the MCU */
};

/* Copy a segment, without the zeros that are stuffed after each 0xFF and without the marker at its end, which read_index has
 * checked. Returns the end of the copy. Reads up to 7 bytes after the segment: at least the index's footer is there. */
static uint8_t *copy_clean(const struct entropy *entropy, const uint8_t *from, const uint8_t *end, uint8_t *to) {
    const uint64_t low = 0x0101010101010101, high = 0x80 * low;
    while (from < end) {
        uint64_t word;
        memcpy(&word, from, 8);
        memcpy(to, &word, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        const uint64_t found = (~word - low) & word & high;     /* the first bit is that of the first 0xFF */
        if (found == 0) {
            from += 8, to += 8;
            continue;
        }
        const int before = __builtin_ctzll(found) / 8;
        from += before + 2, to += before;
        if (from[-1] != 0)
            break;
        *to++ = 0xFF;
    }
    if (from != end || end[-1] == 0)
        fail(entropy);
    return to;
}

/* As open_segment in kernel_huffman.c. Begins a lane's next segment; 0 if none is left. */
static int open_lane(struct lanes *lanes, struct lane *lane, struct position *position) {
    const struct entropy *entropy = lanes->entropy;
    int64_t number = lanes->next_segment++;
    while (number < entropy->num_segments && entropy->segments[number].end == 0)     /* no crop needs it */
        number = lanes->next_segment++;
    if (number >= entropy->num_segments)
        return 0;
    const uint8_t *from = entropy->jpeg + entropy->segments[number].begin, *end = entropy->jpeg + entropy->segments[number].end;
    uint8_t *to = copy_clean(entropy, from, end, lane->clean);
    for (int i = 0; i < PADDING; i += 32)
        memset(to + i, 0, 32);  /* as in clear_block */
    lane->clean_end = to;
    lane->next_block = 0;
    lane->blocks_left = entropy->interval * lanes->blocks_in_mcu;
    memset(lane->predicted, 0, sizeof lane->predicted);
    int64_t row = number / lanes->segments_per_row, column = number % lanes->segments_per_row * entropy->interval;
    for (int b = 0; b < lanes->blocks_in_mcu; b++) {
        const struct mcu_block *block = &lanes->mcu[b];
        int64_t y = row * block->down + block->y, x = column * block->across + block->x;
        lane->blocks[b] = block->coefficients + (y * block->blocks_per_row + x) * DCTSIZE2;
    }
    position->at = lane->clean;
    position->word = 1;
    return 1;
}

/* Same as close_segment: all bits are used except for less than a byte of padding. */
static void close_lane(const struct lanes *lanes, const struct lane *lane, const uint8_t *at, uint64_t word) {
    int64_t left = 8 * (lane->clean_end - at) - __builtin_ctzll(word);
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

/* Zero 64 coefficients, aligned to 32 bytes. (For memset, gcc emits `rep stos`, which takes longer than a code.) */
INLINE void clear_block(JCOEF *block) {
    typedef uint64_t four __attribute__((vector_size(32), may_alias));
    for (four *at = (four *)block; at < (four *)(block + DCTSIZE2); at++)
        *at = (four){0};
}

/* Begin the lane's next block: clear it and decode its first value. Returns 0 if no segment is left. */
INLINE int begin_block(struct lanes *lanes, struct lane *lane, struct position *position) {
    struct entropy *entropy = lanes->entropy;
    read_word(position);
    if ((position->k > DCTSIZE2 && position->k <= END_RUN) || position->at > lane->clean_end + 8)
        fail(entropy);
    if (lane->blocks_left-- == 0) {
        close_lane(lanes, lane, position->at, position->word);
        *position = next_segment(lanes, lane);
        if (position->k == 0)
            return 0;
        read_word(position);
        lane->blocks_left--;
    }
    const int b = lane->next_block;
    lane->next_block = b + 1 < lanes->blocks_in_mcu ? b + 1 : 0;
    const struct mcu_block *mcu_block = &lanes->mcu[b];
    JCOEF *block = lane->blocks[b];
    lane->blocks[b] = block + mcu_block->across * DCTSIZE2;
    clear_block(block);

    const struct code *code = next_code(entropy, mcu_block->dc, position->word, 1);
    int *predicted = &lane->predicted[mcu_block->component];
    if (code->shift < 64)
        *predicted += value_of(code, position->word);
    position->word <<= code->total;
    block[0] = (JCOEF)*predicted;
    position->block = block;
    position->ac = mcu_block->ac;
    position->k = 1;
    return 1;
}

/* Decode a code that short_codes lacks. Returns 0 at the end of the block. */
INLINE int take_long(struct lanes *lanes, struct position *position) {
    read_word(position);
    const uint64_t word = position->word;
    const struct code *code = next_code(lanes->entropy, position->ac, word, 0);
    position->word <<= code->total;
    if (code->shift == 64 && code->run != 15)
        return 0;
    const int64_t k = position->k + code->run;
    if (code->shift < 64)
        position->block[ZIGZAG[k]] = (JCOEF)value_of(code, word);
    position->k = k + 1;
    return k + 1 < DCTSIZE2;
}

/* Decode the next code and its value; go to `is_long` instead if they have more than SHORT_BITS bits, and to `ended` after the
 * block. (A macro, because the caller of a function would need a second branch.) */
#define TAKE_SHORT(position, is_long, ended) \
    do { \
        const uint64_t code = (position).ac->short_codes[(position).word >> (64 - SHORT_BITS)]; \
        if (__builtin_expect(code == 0, 0)) \
            goto is_long; \
        (position).k += code >> 8 & 0xFF; \
        /* At the end of a block, the last one is still 0. */ \
        (position).block[ZIGZAG[(position).k - 1]] = (JCOEF)(code >> 16); \
        (position).word <<= code & 63; \
        if (__builtin_expect((position).k >= DCTSIZE2, 0)) \
            goto ended; \
    } while (0)

enum { SHORT_IN_WORD = WORD_BITS / SHORT_BITS };

/* The targets of TAKE_SHORT, which continue its loop. Falls through if no segment is left. */
#define CONTINUE(position, lane, is_long, ended) \
    is_long: \
        if (take_long(lanes, &(position))) \
            continue; \
    ended: \
        if (begin_block(lanes, lane, &(position))) \
            continue;

/* Decode with one lane until no segment is left. */
INLINE void decode_one(struct lanes *lanes, struct lane *lane, struct position position) {
    while (1) {
        read_word(&position);
        for (int i = 0; i < SHORT_IN_WORD; i++)
            TAKE_SHORT(position, is_long, ended);
        continue;
        CONTINUE(position, lane, is_long, ended)
        return;
    }
}

/* The same with two lanes. */
INLINE void decode_two(struct lanes *lanes, struct lane *first_lane, struct position first, struct lane *second_lane,
                       struct position second) {
    while (1) {
        read_word(&first);
        read_word(&second);
        for (int i = 0; i < SHORT_IN_WORD; i++) {
            TAKE_SHORT(first, first_is_long, first_ended);
            TAKE_SHORT(second, second_is_long, second_ended);
        }
        continue;
        CONTINUE(first, first_lane, first_is_long, first_ended)
        decode_one(lanes, second_lane, second);
        return;
        CONTINUE(second, second_lane, second_is_long, second_ended)
        decode_one(lanes, first_lane, first);
        return;
    }
}

INLINE void decode(struct lanes *lanes) {
    struct lane lane[NUM_LANES], *first_lane = &lane[0], *second_lane = &lane[1];
    for (int i = 0; i < NUM_LANES; i++)
        lane[i].clean = lanes->clean[i];
    struct position first = next_segment(lanes, &lane[0]);
    if (first.k == 0 || !begin_block(lanes, &lane[0], &first))
        return;
    struct position second = next_segment(lanes, &lane[1]);
    if (second.k == 0 || !begin_block(lanes, &lane[1], &second)) {
        decode_one(lanes, &lane[0], first);
        return;
    }
    struct position third = next_segment(lanes, &lane[2]);
    int has_third = third.k != 0 && begin_block(lanes, &lane[2], &third);
    while (has_third) {
        read_word(&first);
        read_word(&second);
        read_word(&third);
        for (int i = 0; i < SHORT_IN_WORD; i++) {
            TAKE_SHORT(first, first_is_long, first_ended);
            TAKE_SHORT(second, second_is_long, second_ended);
            TAKE_SHORT(third, third_is_long, third_ended);
        }
        continue;
        CONTINUE(first, &lane[0], first_is_long, first_ended)
        first = third, first_lane = &lane[2];
        break;
        CONTINUE(second, &lane[1], second_is_long, second_ended)
        second = third, second_lane = &lane[2];
        break;
        CONTINUE(third, &lane[2], third_is_long, third_ended)
        break;
    }
    decode_two(lanes, first_lane, first, second_lane, second);
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
