/* Reading of Huffman codes, shared by kernel_huffman.c (one segment at a time) and lanes.c
 * (several). */

#ifndef HARNESS_HUFFMAN_H
#define HARNESS_HUFFMAN_H

#include <string.h>

#include "../kernel.h"

#define FOUR(i) i, i, i, i
#define SIXTEEN(i) FOUR(i), FOUR(i), FOUR(i), FOUR(i)
/* Natural position of each coefficient of the zigzag order. Numbers from 64 on, which a run beyond
 * the end of a block or an end-of-block code gives, have position 63. */
static const uint8_t ZIGZAG[64 + END_RUN] = {
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63, SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63), SIXTEEN(63)};

/* Make at least 56 bits valid. Reads 8 bytes. */
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

/* Return the code at the start of `word`, which has more than LOOKUP_BITS bits. Not inline: such
 * codes are rare, and inlined code would take registers. */
__attribute__((noinline, cold))
const struct code *long_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc);

/* Fill `huffman` from a table of libjpeg. Returns 0 if the table is NULL or not valid in a baseline
 * image. */
int make_huffman(const JHUFF_TBL *table, struct huffman *huffman, int is_dc);

/* Return the code at the start of `word`. */
INLINE const struct code *next_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc) {
    const struct code *code = &huffman->lookup[word >> (64 - LOOKUP_BITS)];
    return __builtin_expect(code->length == 0, 0) ? long_code(entropy, huffman, word, is_dc) : code;
}

/* Return the value after the code at the start of `word`; it has at least one bit. Without a
 * branch, since the sign of a value cannot be predicted. */
INLINE int value_of(const struct code *code, uint64_t word) {
    uint64_t rest = word << code->length;
    int begins_with_0 = (int)((int64_t)~rest >> 63);      /* 0 or -1 */
    return (int)(rest >> code->shift) + (begins_with_0 & code->lowest);
}

/* Remove the first `count` bits. */
INLINE void drop(struct bits *bits, int count) {
    bits->word <<= count;
    bits->count -= count;
}

#endif
