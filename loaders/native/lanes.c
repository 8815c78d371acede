/* Decode the Huffman codes of the segments under the crops, three segments at a time.
 *
 * The end of a code is known only after its lookup, so the codes of one segment form a chain of
 * dependent loads and shifts. Three segments give the processor three independent chains. A lane is
 * the decoder of one segment. When a lane has finished its segment, it takes the next one of the
 * image, so that all lanes are busy until the last segments.
 */

#include <stdlib.h>
#include <string.h>

#include "huffman.h"
#include "lanes.h"
#include "stages.h"

/* The state of a lane that changes with each code. It is small, so that three of them fit the
 * registers. */
struct position {
    const uint8_t *at;          /* byte from which `word` was read */
    /* The next bits of the segment, the first one highest, then a 1 and zeros. Each bit that is
     * shifted out adds a zero, so the number of zeros is the number of bits used since the byte
     * `at`. */
    uint64_t word;
    int64_t k;                  /* number of the block's next coefficient, zigzag order */
    JCOEF *block;               /* [64] coefficients, natural order */
    const struct huffman *ac;
};

/* Fewest bits in `word` after read_word: 63, less at most 7 used bits of the byte `at`. */
enum { WORD_BITS = 56 };

/* Advance `at` to the byte of the next bit, and read `word` from there. Reads 8 bytes. */
INLINE void read_word(struct position *position) {
    const int used = __builtin_ctzll(position->word);
    uint64_t word;
    position->at += used >> 3;
    memcpy(&word, position->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    position->word = (word | 1) << (used & 7);
}

/* The state of a lane that changes with each block or segment. */
struct lane {
    /* Copy of the segment without stuffed zeros (the byte 0 after each 0xFF). PADDING zeros
     * follow. */
    uint8_t *clean, *clean_end;
    int next_block;             /* number of the next block in its MCU */
    int64_t blocks_left;        /* in the segment */
    int predicted[MAX_COMPS_IN_SCAN];       /* DC of each component's last block */
    JCOEF *blocks[D_MAX_BLOCKS_IN_MCU];     /* coefficients of each block of the next MCU */
};

/* Copy a segment without stuffed zeros, and without the marker at its end, which read_index has
 * checked. Returns the end of the copy. Reads and writes 8 bytes at a time. Up to 7 bytes after the
 * segment are read, which is in the blob: the footer of the index has 28 bytes. Up to 7 bytes after
 * the copy are written, for which there is PADDING. */
static uint8_t *copy_clean(const struct entropy *entropy, const uint8_t *from, const uint8_t *end, uint8_t *to) {
    const uint64_t low = 0x0101010101010101, high = 0x80 * low;
    while (from < end) {
        uint64_t word;
        memcpy(&word, from, 8);
        memcpy(to, &word, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        /* The lowest bit that is set is in the first byte 0xFF. */
        const uint64_t found = (~word - low) & word & high;
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

/* Begin a lane's next segment, as open_segment in kernel_huffman.c. Returns 0 if no segment is
 * left. */
static int open_lane(struct lanes *lanes, struct lane *lane, struct position *position) {
    const struct entropy *entropy = lanes->entropy;
    int64_t number = lanes->next_segment++;
    /* Skip segments that no crop needs. */
    while (number < entropy->num_segments && entropy->segments[number].end == 0)
        number = lanes->next_segment++;
    if (number >= entropy->num_segments)
        return 0;
    const uint8_t *from = entropy->jpeg + entropy->segments[number].begin, *end = entropy->jpeg + entropy->segments[number].end;
    uint8_t *to = copy_clean(entropy, from, end, lane->clean);
    for (int i = 0; i < PADDING; i += 32)
        memset(to + i, 0, 32);  /* 32 bytes at a time, for the reason given at clear_block */
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

/* Check that all bits of the segment are used, except for at most 7 bits of padding. */
static void close_lane(const struct lanes *lanes, const struct lane *lane, const uint8_t *at, uint64_t word) {
    int64_t left = 8 * (lane->clean_end - at) - __builtin_ctzll(word);
    if (left < 0 || left > 7)
        fail(lanes->entropy);
}

/* Begin a lane's next segment; in the result, k is 0 if no segment is left. Returns a value instead
 * of changing the caller's position through a pointer: a position whose address is taken would stay
 * in memory instead of registers. */
__attribute__((noinline)) static struct position next_segment(struct lanes *lanes, struct lane *lane) {
    struct position position = {.k = 1};
    if (!open_lane(lanes, lane, &position))
        position.k = 0;
    return position;
}

/* Zero the 64 coefficients of a block, which are aligned to 32 bytes. (For memset of 128 bytes, gcc
 * emits `rep stos`, which takes longer than decoding a code.) */
INLINE void clear_block(JCOEF *block) {
    typedef uint64_t four __attribute__((vector_size(32), may_alias));
    for (four *at = (four *)block; at < (four *)(block + DCTSIZE2); at++)
        *at = (four){0};
}

/* Begin the lane's next block, which may be the first one of its next segment: clear it and decode
 * DC. Returns 0 if no segment is left. Checks that the last block did not end in a run of zeros
 * beyond its end, and that the position is at most 8 bytes after the segment; PADDING relies on
 * this. */
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

/* Decode an AC code that short_codes lacks, and its value. Returns 0 if the block ends. */
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

/* Decode the next AC code and its value. If they have more than SHORT_BITS bits, go to `is_long`
 * instead; if the block ends, go to `ended`. (A macro, because the caller of a function would need
 * a second branch.) */
#define TAKE_SHORT(position, is_long, ended) \
    do { \
        const uint64_t code = (position).ac->short_codes[(position).word >> (64 - SHORT_BITS)]; \
        if (__builtin_expect(code == 0, 0)) \
            goto is_long; \
        (position).k += code >> 8 & 0xFF; \
        /* An end-of-block code writes its 0 to block[63], which is still 0 then. */ \
        (position).block[ZIGZAG[(position).k - 1]] = (JCOEF)(code >> 16); \
        (position).word <<= code & 63; \
        if (__builtin_expect((position).k >= DCTSIZE2, 0)) \
            goto ended; \
    } while (0)

/* Number of short codes whose bits one read_word gives at least. */
enum { SHORT_IN_WORD = WORD_BITS / SHORT_BITS };

/* The targets of TAKE_SHORT: they continue the enclosing loop, or fall through if the lane has no
 * segment left. */
#define CONTINUE(position, lane, is_long, ended) \
    is_long: \
        if (take_long(lanes, &(position))) \
            continue; \
    ended: \
        if (begin_block(lanes, lane, &(position))) \
            continue;

/* Decode with one lane until no segment is left. `position` is inside a block. */
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

/* Decode with three lanes, and with fewer lanes at the end. */
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
/* The same code, compiled for AVX2's processors: with BMI2, shifts take a third of the instructions
 * and one register less. */
TARGET_AVX2
void decode_lanes_avx2(struct lanes *lanes) {
    decode(lanes);
}
#endif
