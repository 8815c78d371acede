/* Upsampling, color conversion, and the order of RGB in AVX-512 VBMI: the same sums as in
 * upsample_color.c, 64 samples at a time. (All loops of this set have 512-bit versions, because
 * next to 512-bit instructions, 256-bit ones can use only two of three execution units.) */

#include "stages.h"
#include "upsample_color.h"

#if HAS_AVX2
#include <immintrin.h>

#define INLINE_VBMI TARGET_VBMI static inline __attribute__((always_inline))

/* 64 words. low: the first 8 of each 16 samples; high: the last 8 of each 16. */
struct words {
    __m512i low, high;
};

INLINE_VBMI __m512i load_64(const uint8_t *bytes) {
    return _mm512_loadu_si512(bytes);
}

/* Return 3 * near + far of 64 samples. */
INLINE_VBMI struct words near_and_far(__m512i near, __m512i far) {
    const __m512i weights = _mm512_set1_epi16(0x0103);
    return (struct words){_mm512_maddubs_epi16(_mm512_unpacklo_epi8(near, far), weights),
                          _mm512_maddubs_epi16(_mm512_unpackhi_epi8(near, far), weights)};
}

INLINE_VBMI struct words add(struct words a, struct words b) {
    return (struct words){_mm512_add_epi16(a.low, b.low), _mm512_add_epi16(a.high, b.high)};
}

INLINE_VBMI struct words plus(struct words sums, int bias) {
    const __m512i more = _mm512_set1_epi16((short)bias);
    return add(sums, (struct words){more, more});
}

/* Return words whose low byte is left >> bits, and whose high byte is right >> bits. */
INLINE_VBMI __m512i alternated(__m512i left, __m512i right, int bits) {
    enum { A_AND_B_OR_C = 0xEA };
    return _mm512_ternarylogic_epi64(_mm512_slli_epi16(right, 8 - bits), _mm512_set1_epi16((short)0xFF00),
                                     _mm512_srli_epi16(left, bits), A_AND_B_OR_C);
}

/* Store 128 output samples: left[0] >> bits, right[0] >> bits, left[1] >> bits, ... */
INLINE_VBMI void store_alternated(uint8_t *row, struct words left, struct words right, int bits) {
    __m512i low = alternated(left.low, right.low, bits), high = alternated(left.high, right.high, bits);
    _mm512_storeu_si512(row, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high));
    _mm512_storeu_si512(row + 64, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high));
}

TARGET_VBMI
void upsample_h2v1_vbmi(const uint8_t *near, int64_t count, uint8_t *row) {
    for (int64_t i = 0; i < count; i += 64) {
        struct words left = near_and_far(load_64(near + i), load_64(near + i - 1));
        struct words right = near_and_far(load_64(near + i), load_64(near + i + 1));
        store_alternated(row + 2 * i, plus(left, 1), plus(right, 2), 2);
    }
}

TARGET_VBMI
void upsample_h2v2_vbmi(const uint8_t *near, const uint8_t *far, int64_t count, uint8_t *row) {
    for (int64_t i = 0; i < count; i += 64) {
        struct words here = near_and_far(load_64(near + i), load_64(far + i));
        struct words before = near_and_far(load_64(near + i - 1), load_64(far + i - 1));
        struct words after = near_and_far(load_64(near + i + 1), load_64(far + i + 1));
        struct words triple = add(here, add(here, here));
        store_alternated(row + 2 * i, plus(add(triple, before), 8), plus(add(triple, after), 7), 4);
    }
}

/* As in upsample_color.c; rgb_of also has the same constants. */
INLINE_VBMI __m512i product(__m512i a, int factor) {
    return _mm512_mulhrs_epi16(a, _mm512_set1_epi16((short)(factor / 2)));
}

struct rgb_words {
    __m512i r, g, b;
};

INLINE_VBMI struct rgb_words rgb_of(__m512i y, __m512i cb, __m512i cr) {
    const __m512i center = _mm512_set1_epi16(128), half = _mm512_set1_epi32(HALF);
    const __m512i green = _mm512_set1_epi32((int)((uint32_t)(uint16_t)-FIX_0_344 | (uint32_t)(ONE - FIX_0_714) << 16));
    cb = _mm512_sub_epi16(cb, center), cr = _mm512_sub_epi16(cr, center);
    __m512i red = _mm512_add_epi16(_mm512_add_epi16(y, cr), product(cr, FIX_1_402 - ONE));
    __m512i blue = _mm512_add_epi16(_mm512_add_epi16(y, _mm512_add_epi16(cb, cb)), product(cb, FIX_1_772 - 2 * ONE));
    __m512i low = _mm512_dpwssd_epi32(half, _mm512_unpacklo_epi16(cb, cr), green);
    __m512i high = _mm512_dpwssd_epi32(half, _mm512_unpackhi_epi16(cb, cr), green);
    __m512i share = _mm512_packs_epi32(_mm512_srai_epi32(low, 16), _mm512_srai_epi32(high, 16));
    return (struct rgb_words){red, _mm512_add_epi16(_mm512_sub_epi16(y, cr), share), blue};
}

TARGET_VBMI
void ycc_to_rgb_vbmi(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int64_t count, uint8_t *const rgb[3]) {
    const __m512i zero = _mm512_setzero_si512();
    uint8_t *const red = rgb[0], *const green = rgb[1], *const blue = rgb[2];
    for (int64_t i = 0; i < count; i += 64) {
        __m512i ys = load_64(y + i), cbs = load_64(cb + i), crs = load_64(cr + i);
        struct rgb_words low = rgb_of(_mm512_unpacklo_epi8(ys, zero), _mm512_unpacklo_epi8(cbs, zero),
                                      _mm512_unpacklo_epi8(crs, zero));
        struct rgb_words high = rgb_of(_mm512_unpackhi_epi8(ys, zero), _mm512_unpackhi_epi8(cbs, zero),
                                       _mm512_unpackhi_epi8(crs, zero));
        _mm512_storeu_si512(red + i, _mm512_packus_epi16(low.r, high.r));
        _mm512_storeu_si512(green + i, _mm512_packus_epi16(low.g, high.g));
        _mm512_storeu_si512(blue + i, _mm512_packus_epi16(low.b, high.b));
    }
}

#define EIGHT(f, j) f((j)), f((j) + 1), f((j) + 2), f((j) + 3), f((j) + 4), f((j) + 5), f((j) + 6), f((j) + 7)
#define ALL_64(f) EIGHT(f, 0), EIGHT(f, 8), EIGHT(f, 16), EIGHT(f, 24), EIGHT(f, 32), EIGHT(f, 40), EIGHT(f, 48), EIGHT(f, 56)

/* Shuffles of 64 RGB pixels, which are 192 bytes in three vectors. SPLIT[color] has the number of
 * each byte of a color among these 192. A permutation of two vectors uses it modulo 128, which is
 * right for the first two vectors; a permutation of one vector uses it modulo 64, right for the
 * third. */
#define RED_BYTE(j) (uint8_t)(3 * (j))
#define GREEN_BYTE(j) (uint8_t)(3 * (j) + 1)
#define BLUE_BYTE(j) (uint8_t)(3 * (j) + 2)
static const uint8_t SPLIT[3][64] = {{ALL_64(RED_BYTE)}, {ALL_64(GREEN_BYTE)}, {ALL_64(BLUE_BYTE)}};

/* JOIN[vector] has the number of the pixel to which each byte of a vector belongs. EACH_THIRD[n] is
 * a mask of the bytes n, n + 3, n + 6, ... */
#define PIXEL_0(j) (uint8_t)((j) / 3)
#define PIXEL_1(j) (uint8_t)((64 + (j)) / 3)
#define PIXEL_2(j) (uint8_t)((128 + (j)) / 3)
static const uint8_t JOIN[3][64] = {{ALL_64(PIXEL_0)}, {ALL_64(PIXEL_1)}, {ALL_64(PIXEL_2)}};
static const uint64_t EACH_THIRD[3] = {0x9249249249249249, 0x2492492492492492, 0x4924924924924924};

/* Return a mask of the lowest n bits: none if n is negative, all if n is above 64. */
INLINE_VBMI __mmask64 lowest(int64_t n) {
    return n <= 0 ? 0 : n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
}

/* Reads no byte after the last pixel: the mapped file may end there. */
TARGET_VBMI
void split_rgb_vbmi(const uint8_t *pixels, int64_t count, uint8_t *const rgb[3]) {
    /* Pixels whose byte is in the third vector: from pixel 43 on for red and green, from 42 on for
     * blue. */
    const __mmask64 in_third[3] = {~(uint64_t)0 << 43, ~(uint64_t)0 << 43, ~(uint64_t)0 << 42};
    for (int64_t i = 0; i < count; i += 64) {
        const int64_t bytes = 3 * (count - i);
        const __m512i first = _mm512_maskz_loadu_epi8(lowest(bytes), pixels + 3 * i);
        const __m512i second = _mm512_maskz_loadu_epi8(lowest(bytes - 64), pixels + 3 * i + 64);
        const __m512i third = _mm512_maskz_loadu_epi8(lowest(bytes - 128), pixels + 3 * i + 128);
        for (int c = 0; c < 3; c++) {
            const __m512i places = load_64(SPLIT[c]);
            _mm512_storeu_si512(rgb[c] + i, _mm512_mask_permutexvar_epi8(_mm512_permutex2var_epi8(first, places, second),
                                                                         in_third[c], places, third));
        }
    }
}

/* Writes no byte after the last pixel: the next output image may begin there. */
TARGET_VBMI
void join_rgb_vbmi(const uint8_t *const rgb[3], int64_t count, uint8_t *pixels) {
    for (int64_t i = 0; i < count; i += 64) {
        const __m512i red = load_64(rgb[0] + i), green = load_64(rgb[1] + i), blue = load_64(rgb[2] + i);
        for (int part = 0; part < 3; part++) {
            const __m512i places = load_64(JOIN[part]);
            __m512i joined = _mm512_permutexvar_epi8(places, red);
            /* Byte j of this vector is byte 64 * part + j of the pixels, so its color is (part + j)
             * % 3. */
            joined = _mm512_mask_permutexvar_epi8(joined, EACH_THIRD[(4 - part) % 3], places, green);
            joined = _mm512_mask_permutexvar_epi8(joined, EACH_THIRD[(5 - part) % 3], places, blue);
            _mm512_mask_storeu_epi8(pixels + 3 * i + 64 * part, lowest(3 * (count - i) - 64 * part), joined);
        }
    }
}
#endif
