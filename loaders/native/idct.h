/* Constants of the inverse DCT, and its AVX2 version for two blocks at a time; idct.c has the
 * equations. */

#ifndef HARNESS_IDCT_H
#define HARNESS_IDCT_H

#include "stages.h"

enum { CONST_BITS = 13, PASS1_BITS = 2 };
enum { ROUND_COLUMNS = CONST_BITS - PASS1_BITS, ROUND_ROWS = CONST_BITS + PASS1_BITS + 3 };
/* Largest dequantized value that can be shifted by PASS1_BITS in 16 bits. For larger ones, shifting
 * (which wraps) and rounding (which saturates) differ. */
enum { MAX_SHIFTED = 32767 >> PASS1_BITS };

enum {      /* units of 1 / 8192 */
    F_0_298 = 2446, F_0_390 = 3196, F_0_541 = 4433, F_0_765 = 6270, F_0_899 = 7373, F_1_175 = 9633, F_1_501 = 12299,
    F_1_847 = 15137, F_1_961 = 16069, F_2_053 = 16819, F_2_562 = 20995, F_3_072 = 25172
};

/* Pairs of factors (first, second) of sums a * first + b * second, which one pmaddwd computes. Each
 * merges several multiplications of jidctint. */
#define ODD_Z3 (F_1_175 - F_1_961), F_1_175
#define ODD_Z4 F_1_175, (F_1_175 - F_0_390)
#define ODD_7 (F_0_298 - F_0_899), -F_0_899
#define ODD_1 -F_0_899, (F_1_501 - F_0_899)
#define ODD_5 (F_2_053 - F_2_562), -F_2_562
#define ODD_3 -F_2_562, (F_3_072 - F_2_562)
#define EVEN_3 (F_0_541 + F_0_765), F_0_541
#define EVEN_2 F_0_541, (F_0_541 - F_1_847)

#if HAS_AVX2
#include <immintrin.h>

#define INLINE_AVX2 TARGET_AVX2 static inline __attribute__((always_inline))

/* Return 1 if a dequantized value of a block's first row is beyond MAX_SHIFTED. Only then, the
 * special case of idct.c differs from the usual transform. */
INLINE_AVX2 int is_beyond_shift(__m256i first_rows) {
    __m256i most = _mm256_set1_epi16(MAX_SHIFTED), least = _mm256_set1_epi16(-MAX_SHIFTED - 1);
    __m256i beyond = _mm256_or_si256(_mm256_cmpgt_epi16(first_rows, most), _mm256_cmpgt_epi16(least, first_rows));
    return !_mm256_testz_si256(beyond, beyond);
}

/* A vector of 16-bit pairs (first, second) for pmaddwd. */
#define PAIR_OF(first, second) _mm256_set1_epi32((int)((uint32_t)(uint16_t)(first) | (uint32_t)(uint16_t)(second) << 16))
#define PAIR(factors) PAIR_OF(factors)

/* Shift sums of 32 bits right by `bits`, rounded, and pack them to 16 bits with saturation. */
INLINE_AVX2 __m256i round_to_16(__m256i low, __m256i high, int bits) {
    __m256i half = _mm256_set1_epi32(1 << (bits - 1));
    return _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, half), bits),
                              _mm256_srai_epi32(_mm256_add_epi32(high, half), bits));
}

/* transform_8 of idct.c on 16 columns at once: r[y] has their values in row y. */
INLINE_AVX2 void transform_vectors(__m256i r[8], int bits) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i even3 = PAIR(EVEN_3), even2 = PAIR(EVEN_2), odd_z3 = PAIR(ODD_Z3), odd_z4 = PAIR(ODD_Z4);
    const __m256i odd_7 = PAIR(ODD_7), odd_1 = PAIR(ODD_1), odd_5 = PAIR(ODD_5), odd_3 = PAIR(ODD_3);

    /* 32-bit sums of even and odd part; [2 i], [2 i + 1]: from unpacklo and unpackhi */
    __m256i sums[8], odds[8];
    __m256i plus = _mm256_add_epi16(r[0], r[4]), minus = _mm256_sub_epi16(r[0], r[4]);
    __m256i z3 = _mm256_add_epi16(r[7], r[3]), z4 = _mm256_add_epi16(r[5], r[1]);
    for (int high = 0; high < 2; high++) {
#define UNPACK(a, b) (high ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b))
        __m256i r26 = UNPACK(r[2], r[6]);
        __m256i t3 = _mm256_madd_epi16(r26, even3), t2 = _mm256_madd_epi16(r26, even2);
        __m256i t0 = _mm256_srai_epi32(UNPACK(zero, plus), 16 - CONST_BITS), t1 = _mm256_srai_epi32(UNPACK(zero, minus), 16 - CONST_BITS);
        sums[0 + high] = _mm256_add_epi32(t0, t3), sums[6 + high] = _mm256_sub_epi32(t0, t3);
        sums[2 + high] = _mm256_add_epi32(t1, t2), sums[4 + high] = _mm256_sub_epi32(t1, t2);
        __m256i z34 = UNPACK(z3, z4), r71 = UNPACK(r[7], r[1]), r53 = UNPACK(r[5], r[3]);
        __m256i o3 = _mm256_madd_epi16(z34, odd_z3), o4 = _mm256_madd_epi16(z34, odd_z4);
        odds[6 + high] = _mm256_add_epi32(_mm256_madd_epi16(r71, odd_7), o3);
        odds[0 + high] = _mm256_add_epi32(_mm256_madd_epi16(r71, odd_1), o4);
        odds[4 + high] = _mm256_add_epi32(_mm256_madd_epi16(r53, odd_5), o4);
        odds[2 + high] = _mm256_add_epi32(_mm256_madd_epi16(r53, odd_3), o3);
#undef UNPACK
    }
    for (int i = 0; i < 4; i++) {
        r[i] = round_to_16(_mm256_add_epi32(sums[2 * i], odds[2 * i]), _mm256_add_epi32(sums[2 * i + 1], odds[2 * i + 1]), bits);
        r[7 - i] = round_to_16(_mm256_sub_epi32(sums[2 * i], odds[2 * i]), _mm256_sub_epi32(sums[2 * i + 1], odds[2 * i + 1]),
                               bits);
    }
}

/* Transpose two matrices of 8 x 8 words, one in the low and one in the high halves of the
 * vectors. */
INLINE_AVX2 void transpose_words(__m256i r[8]) {
    __m256i a0 = _mm256_unpacklo_epi16(r[0], r[1]), a1 = _mm256_unpackhi_epi16(r[0], r[1]);
    __m256i a2 = _mm256_unpacklo_epi16(r[2], r[3]), a3 = _mm256_unpackhi_epi16(r[2], r[3]);
    __m256i a4 = _mm256_unpacklo_epi16(r[4], r[5]), a5 = _mm256_unpackhi_epi16(r[4], r[5]);
    __m256i a6 = _mm256_unpacklo_epi16(r[6], r[7]), a7 = _mm256_unpackhi_epi16(r[6], r[7]);
    __m256i b0 = _mm256_unpacklo_epi32(a0, a2), b1 = _mm256_unpackhi_epi32(a0, a2);
    __m256i b2 = _mm256_unpacklo_epi32(a1, a3), b3 = _mm256_unpackhi_epi32(a1, a3);
    __m256i b4 = _mm256_unpacklo_epi32(a4, a6), b5 = _mm256_unpackhi_epi32(a4, a6);
    __m256i b6 = _mm256_unpacklo_epi32(a5, a7), b7 = _mm256_unpackhi_epi32(a5, a7);
    r[0] = _mm256_unpacklo_epi64(b0, b4), r[1] = _mm256_unpackhi_epi64(b0, b4);
    r[2] = _mm256_unpacklo_epi64(b1, b5), r[3] = _mm256_unpackhi_epi64(b1, b5);
    r[4] = _mm256_unpacklo_epi64(b2, b6), r[5] = _mm256_unpackhi_epi64(b2, b6);
    r[6] = _mm256_unpacklo_epi64(b3, b7), r[7] = _mm256_unpackhi_epi64(b3, b7);
}

/* Store two rows of 16 samples. The vector has 8 bytes of each row of the first block, then 8 bytes
 * of each row of the second block. They are the samples less 128. */
INLINE_AVX2 void store_two_rows(__m256i rows_of_both, uint8_t *to, int64_t stride) {
    __m256i rows = _mm256_xor_si256(_mm256_permute4x64_epi64(rows_of_both, 0xD8), _mm256_set1_epi8((char)0x80));
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(rows));
    _mm_storeu_si128((__m128i *)(to + stride), _mm256_extracti128_si256(rows, 1));
}

/* Transform the dequantized rows of two blocks (first block in the low halves) to 8 rows of 16
 * samples. The results of the second pass are columns; they are packed to bytes and transposed as
 * bytes. */
INLINE_AVX2 void transform_pair(__m256i r[8], uint8_t *rows, int64_t stride) {
    transform_vectors(r, ROUND_COLUMNS);
    transpose_words(r);
    transform_vectors(r, ROUND_ROWS);
    __m256i p04 = _mm256_packs_epi16(r[0], r[4]), p15 = _mm256_packs_epi16(r[1], r[5]);
    __m256i p26 = _mm256_packs_epi16(r[2], r[6]), p37 = _mm256_packs_epi16(r[3], r[7]);
    __m256i u0 = _mm256_unpacklo_epi8(p04, p15), u4 = _mm256_unpackhi_epi8(p04, p15);
    __m256i u2 = _mm256_unpacklo_epi8(p26, p37), u6 = _mm256_unpackhi_epi8(p26, p37);
    __m256i w0 = _mm256_unpacklo_epi16(u0, u2), w1 = _mm256_unpackhi_epi16(u0, u2);
    __m256i x0 = _mm256_unpacklo_epi16(u4, u6), x1 = _mm256_unpackhi_epi16(u4, u6);
    store_two_rows(_mm256_unpacklo_epi32(w0, x0), rows, stride);
    store_two_rows(_mm256_unpackhi_epi32(w0, x0), rows + 2 * stride, stride);
    store_two_rows(_mm256_unpacklo_epi32(w1, x1), rows + 4 * stride, stride);
    store_two_rows(_mm256_unpackhi_epi32(w1, x1), rows + 6 * stride, stride);
}

#endif
#endif
