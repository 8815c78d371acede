/* Reading of Huffman codes, shared by the decoders of one segment and of several segments at a time. */

#ifndef HARNESS_HUFFMAN_H
#define HARNESS_HUFFMAN_H

#include <string.h>

#include "../kernel.h"

#define FOUR(i) i, i, i, i
#define SIXTEEN(i) FOUR(i), FOUR(i), FOUR(i), FOUR(i)
static const uint8_t ZIGZAG[64 + END_RUN] = {   /* from 64 on: a run beyond the end of a block */
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63, SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63)};

INLINE void refill(struct bits *bits) {
    uint64_t word;
    memcpy(&word, bits->next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    bits->word |= word >> bits->count;
    bits->next += (63 - bits->count) >> 3;
    bits->count |= 56;
}

__attribute__((noinline, cold, unused)) static void fail(const struct entropy *entropy) {
    longjmp(*entropy->failed, 1);
}

/* A code longer than LOOKUP_BITS at the start of `word`. Not inline: it is rare, and would take
 * registers. */
__attribute__((noinline, cold))
const struct code *long_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc);

/* Returns 0 for a table that no baseline image has. */
int make_huffman(const JHUFF_TBL *table, struct huffman *huffman, int is_dc);

INLINE const struct code *next_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc) {
    const struct code *code = &huffman->lookup[word >> (64 - LOOKUP_BITS)];
    return __builtin_expect(code->length == 0, 0) ? long_code(entropy, huffman, word, is_dc) : code;
}

/* The value after the code, of at least one bit. Branchless: a branch would be unpredictable. */
INLINE int value_of(const struct code *code, uint64_t word) {
    uint64_t rest = word << code->length;
    int begins_with_0 = (int)((int64_t)~rest >> 63);      /* 0 or -1 */
    return (int)(rest >> code->shift) + (begins_with_0 & code->lowest);
}

INLINE void drop(struct bits *bits, int count) {
    bits->word <<= count;
    bits->count -= count;
}

#endif
