/* Resize in AVX-512 VBMI: the same sums as in resize.c. Across, 16 or 32 output pixels come from
 * each window of 64 bytes; down, 32 columns are processed at a time. VNNI (Intel since Ice Lake,
 * AMD since Zen 4) multiplies and adds in one instruction. */

#include <string.h>

#include "stages.h"

#if HAS_AVX2
#include <immintrin.h>

#define INLINE_VBMI TARGET_VBMI static inline __attribute__((always_inline))

/* Restore the order after a pack of two vectors, which works on 128 bits at a time. */
INLINE_VBMI __m512i in_order(__m512i packed) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed);
}

/* Return the rows' values (units of 1 / 128 level, as int32) of 16 output pixels, whose window
 * begins at `from`. */
INLINE_VBMI __m512i sum_window(const uint8_t *from, const uint8_t *shuffles, const int16_t *values, int64_t pairs) {
    __m512i window = _mm512_loadu_si512(from), sum = _mm512_set1_epi32(1 << (ROUND_ACROSS - 1));
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512i levels = _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_loadu_si512(shuffles + 64 * pair), window);
        sum = _mm512_dpwssd_epi32(sum, levels, _mm512_loadu_si512(values + 32 * pair));
    }
    return _mm512_srai_epi32(sum, ROUND_ACROSS);
}

/* Resize across with tables of words (struct weights, is_narrow with has_windows): 32 output pixels
 * of each color at a time. `num_colors` is a compile-time constant, and so is `pairs`
 * (weights->pairs) for its usual values. */
INLINE_VBMI void resize_windows(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int64_t pairs,
                                int16_t *restrict result, int64_t stride) {
    for (int64_t block = 0; block < (weights->target + 15) / 16; block += 2) {
        const uint8_t *shuffles = weights->shuffles + 64 * block * pairs;
        const int16_t *values = weights->pair_values + 32 * block * pairs;
        for (int64_t c = 0; c < num_colors; c++) {
            __m512i low = sum_window(rows[c] + weights->bases[block], shuffles, values, pairs);
            __m512i high = sum_window(rows[c] + weights->bases[block + 1], shuffles + 64 * pairs, values + 32 * pairs, pairs);
            __m512i levels = in_order(_mm512_packs_epi32(low, high));
            if (weights->has_negative)
                levels = _mm512_max_epi16(_mm512_min_epi16(levels, _mm512_set1_epi16(MOST_ACROSS)), _mm512_setzero_si512());
            _mm512_storeu_si512(result + c * stride + 16 * block, levels);
        }
    }
}

/* The same with weights of bytes, as resize_bytes in resize.c: 32 output pixels from each
 * window. */
INLINE_VBMI void resize_bytes(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int64_t pairs,
                              int16_t *restrict result, int64_t stride) {
    const __m512i shift = _mm512_set1_epi16(1 << (15 - ROUND_ACROSS));
    for (int64_t block = 0; block < (weights->target + 31) / 32; block++) {
        const uint8_t *shuffles = weights->shuffles + 64 * block * pairs;
        const int8_t *values = weights->byte_values + 128 * block * pairs;
        for (int64_t c = 0; c < num_colors; c++) {
            __m512i window = _mm512_loadu_si512(rows[c] + weights->bases[block]);
            __m512i high = _mm512_setzero_si512(), low = high;
            for (int64_t pair = 0; pair < pairs; pair++) {
                __m512i taps = _mm512_permutexvar_epi8(_mm512_loadu_si512(shuffles + 64 * pair), window);
                high = _mm512_add_epi16(high, _mm512_maddubs_epi16(taps, _mm512_loadu_si512(values + 128 * pair)));
                low = _mm512_add_epi16(low, _mm512_maddubs_epi16(taps, _mm512_loadu_si512(values + 128 * pair + 64)));
            }
            _mm512_storeu_si512(result + c * stride + 32 * block, _mm512_add_epi16(high, _mm512_mulhrs_epi16(low, shift)));
        }
    }
}

INLINE_VBMI void resize_colors(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result,
                               int64_t stride) {
    if (weights->has_bytes && weights->pairs == 1)
        resize_bytes(rows, num_colors, weights, 1, result, stride);
    else if (weights->has_bytes)
        resize_bytes(rows, num_colors, weights, 2, result, stride);
    else if (weights->pairs == 1)
        resize_windows(rows, num_colors, weights, 1, result, stride);
    else if (weights->pairs == 2)
        resize_windows(rows, num_colors, weights, 2, result, stride);
    else
        resize_windows(rows, num_colors, weights, weights->pairs, result, stride);
}

TARGET_VBMI
void resize_across_vbmi(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result,
                        int64_t stride) {
    if (!weights->is_narrow && !weights->has_bytes)
        resize_across_avx2(rows, num_colors, weights, result, stride);
    else if (num_colors == 3)
        resize_colors(rows, 3, weights, result, stride);
    else
        resize_colors(rows, 1, weights, result, stride);
}

/* Return the two weights of a pair of rows, in each 32 bits. */
INLINE_VBMI __m512i pair_of(const int16_t *values, int64_t pair) {
    int32_t both;
    memcpy(&both, values + 2 * pair, sizeof both);
    return _mm512_set1_epi32(both);
}

/* Return the weighted sums of 32 columns from x on, as int16, not yet limited to 0..255. */
INLINE_VBMI __m512i sum_columns(const int16_t *const *rows, const int16_t *values, int64_t pairs, int64_t x) {
    __m512i low = _mm512_set1_epi32(1 << (ROUND_DOWN - 1)), high = low;
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512i first = _mm512_loadu_si512(rows[2 * pair] + x), second = _mm512_loadu_si512(rows[2 * pair + 1] + x);
        low = _mm512_dpwssd_epi32(low, _mm512_unpacklo_epi16(first, second), pair_of(values, pair));
        high = _mm512_dpwssd_epi32(high, _mm512_unpackhi_epi16(first, second), pair_of(values, pair));
    }
    return _mm512_packs_epi32(_mm512_srai_epi32(low, ROUND_DOWN), _mm512_srai_epi32(high, ROUND_DOWN));
}

/* Resize down, as sum_rows in resize.c. */
INLINE_VBMI void sum_rows(const int16_t *const *rows, const int16_t *values, int64_t pairs, int64_t count,
                          uint8_t *restrict result) {
    int64_t x = 0;
    for (; x + 64 <= count; x += 64) {
        __m512i first = sum_columns(rows, values, pairs, x), second = sum_columns(rows, values, pairs, x + 32);
        _mm512_storeu_si512(result + x, in_order(_mm512_packus_epi16(first, second)));
    }
    if (x < count) {
        __m512i words = sum_columns(rows, values, pairs, x);
        _mm256_storeu_si256((__m256i *)(result + x), _mm512_castsi512_si256(in_order(_mm512_packus_epi16(words, words))));
    }
}

TARGET_VBMI
void resize_down_vbmi(const int16_t *const *rows, const int16_t *values, int64_t num_rows, int64_t count, uint8_t *result) {
    int64_t pairs = (num_rows + 1) / 2;
    if (pairs == 1)
        sum_rows(rows, values, 1, count, result);
    else if (pairs == 2)
        sum_rows(rows, values, 2, count, result);
    else
        sum_rows(rows, values, pairs, count, result);
}
#endif
