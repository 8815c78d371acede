/* The inverse DCT, with the same bytes as libjpeg-turbo's accurate integer transform (JDCT_ISLOW).
 *
 * The algorithm is figure 1 of Loeffler, Ligtenberg, Moschytz (ICASSP 1989), as in jidctint.c of
 * the Independent JPEG Group: columns, then rows, with constants of 13 bits. Results of the columns
 * keep 2 more bits.
 *
 * For damaged data, which gives larger values than any encoder writes, overflow matters. The
 * results are then those of libjpeg-turbo's vector code:
 *     - Products with the quantization table wrap to 16 bits.
 *     - The sums z3 and z4, and r0 + r4 and r0 - r4 of the even part, wrap to 16 bits.
 *     - Rounding saturates to 16 bits.
 *     - If all coefficients of a block are in its first row, columns are shifted left instead of
 *       rounded. Shifts wrap.
 */

#include "idct.h"

static int32_t dot(int16_t a, int16_t b, int32_t first, int32_t second) {
    return a * first + b * second;
}

static int16_t rounded(int32_t value, int bits) {
    value = (value + (1 << (bits - 1))) >> bits;
    return value < -32768 ? -32768 : value > 32767 ? 32767 : value;
}

/* Transform one column or row in place: 8 values, `step` apart. Drops `bits` bits with rounding. */
static void transform_8(int16_t *in, int step, int bits) {
    int16_t r0 = in[0], r1 = in[step], r2 = in[2 * step], r3 = in[3 * step];
    int16_t r4 = in[4 * step], r5 = in[5 * step], r6 = in[6 * step], r7 = in[7 * step];

    int32_t even2 = dot(r2, r6, EVEN_2), even3 = dot(r2, r6, EVEN_3);
    int32_t even0 = (int16_t)(r0 + r4) * (1 << CONST_BITS), even1 = (int16_t)(r0 - r4) * (1 << CONST_BITS);
    int32_t sum0 = even0 + even3, sum3 = even0 - even3, sum1 = even1 + even2, sum2 = even1 - even2;

    int16_t z3 = r7 + r3, z4 = r5 + r1;
    int32_t odd3 = dot(z3, z4, ODD_Z3), odd4 = dot(z3, z4, ODD_Z4);
    int32_t odd7 = dot(r7, r1, ODD_7) + odd3, odd1 = dot(r7, r1, ODD_1) + odd4;
    int32_t odd5 = dot(r5, r3, ODD_5) + odd4, odd_3 = dot(r5, r3, ODD_3) + odd3;

    in[0] = rounded(sum0 + odd1, bits), in[7 * step] = rounded(sum0 - odd1, bits);
    in[step] = rounded(sum1 + odd_3, bits), in[6 * step] = rounded(sum1 - odd_3, bits);
    in[2 * step] = rounded(sum2 + odd5, bits), in[5 * step] = rounded(sum2 - odd5, bits);
    in[3 * step] = rounded(sum3 + odd7, bits), in[4 * step] = rounded(sum3 - odd7, bits);
}

static void transform_block(const int16_t *block, const int16_t *table, uint8_t *rows, int64_t stride) {
    int16_t values[64];
    int has_more_rows = 0;
    for (int i = 8; i < 64; i++)
        has_more_rows |= block[i];
    for (int i = 0; i < 64; i++)
        values[i] = (int16_t)(block[i] * table[i]);
    for (int x = 0; x < 8; x++) {
        if (has_more_rows) {
            transform_8(values + x, 8, ROUND_COLUMNS);
            continue;
        }
        for (int y = 7; y >= 0; y--)
            values[8 * y + x] = (int16_t)(values[x] * (1 << PASS1_BITS));
    }
    for (int y = 0; y < 8; y++) {
        transform_8(values + 8 * y, 1, ROUND_ROWS);
        for (int x = 0; x < 8; x++) {
            int level = values[8 * y + x];
            rows[y * stride + x] = (level < -128 ? -128 : level > 127 ? 127 : level) + 128;
        }
    }
}

void inverse_dct_scalar(const int16_t *blocks, int64_t count, const int16_t *table, uint8_t *rows, int64_t stride) {
    for (int64_t i = 0; i < count; i++)
        transform_block(blocks + 64 * i, table, rows + 8 * i, stride);
}

#if HAS_AVX2
/* As inverse_dct_scalar, two blocks at a time: the first one in the low halves of the vectors. If
 * `count` is odd, the last block is computed twice, and 8 bytes more are written to each row. */
INLINE_AVX2 void transform_blocks(const int16_t *blocks, int64_t count, const int16_t *table, uint8_t *rows, int64_t stride) {
    __m256i multipliers[8];
    for (int y = 0; y < 8; y++)
        multipliers[y] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + 8 * y)));
    for (int64_t i = 0; i < count; i += 2) {
        const int16_t *first = blocks + 64 * i, *second = i + 1 < count ? first + 64 : first;
        __m256i r[8];
        for (int y = 0; y < 8; y++)
            r[y] = _mm256_mullo_epi16(
                _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(first + 8 * y))),
                                        _mm_loadu_si128((const __m128i *)(second + 8 * y)), 1),
                multipliers[y]);
        if (__builtin_expect(is_beyond_shift(r[0]), 0)) {
            inverse_dct_scalar(first, second == first ? 1 : 2, table, rows + 8 * i, stride);
            continue;
        }
        transform_pair(r, rows + 8 * i, stride);
    }
}

TARGET_AVX2
void inverse_dct_avx2(const int16_t *blocks, int64_t count, const int16_t *table, uint8_t *rows, int64_t stride) {
    transform_blocks(blocks, count, table, rows, stride);
}

/* The same code, compiled for the 32 registers of AVX-512. */
TARGET_VBMI
void inverse_dct_vbmi(const int16_t *blocks, int64_t count, const int16_t *table, uint8_t *rows, int64_t stride) {
    transform_blocks(blocks, count, table, rows, stride);
}
#endif
