/* Convert planes of YCbCr to rows of R, G and B: chroma upsampling and color conversion, with the
 * same bytes as libjpeg-turbo. Also the conversion between RGB pixels and rows, and to float16.
 *
 * Upsampling is the "fancy" one of jdsample.c, a triangle filter. Along each axis, an output sample
 * is 3/4 of the nearest chroma sample and 1/4 of the second nearest. Rounding alternates between
 * output samples. At the image's border, where there is no second nearest sample, the caller
 * repeats the nearest one (repeat_borders in planes.h, chroma_row in picture.c). This gives
 * libjpeg's results.
 *
 * The color conversion is that of jdcolor.c. With cb and cr less 128,
 *     R = y + 1.40200 cr,  G = y - 0.34414 cb - 0.71414 cr,  B = y + 1.77200 cb
 * Constants are in units of 1 / 65536. Each product (for G, the sum of both) is rounded half up,
 * and the result is clipped to 0..255.
 */

#include "stages.h"
#include "upsample_color.h"

void upsample_h2v1_scalar(const uint8_t *near, int64_t count, uint8_t *row) {
    for (int64_t i = 0; i < count; i++) {
        row[2 * i] = (3 * near[i] + near[i - 1] + 1) >> 2;
        row[2 * i + 1] = (3 * near[i] + near[i + 1] + 2) >> 2;
    }
}

void upsample_h2v2_scalar(const uint8_t *near, const uint8_t *far, int64_t count, uint8_t *row) {
    int before = 3 * near[-1] + far[-1], here = 3 * near[0] + far[0];
    for (int64_t i = 0; i < count; i++) {
        int after = 3 * near[i + 1] + far[i + 1];
        row[2 * i] = (3 * here + before + 8) >> 4;
        row[2 * i + 1] = (3 * here + after + 7) >> 4;
        before = here, here = after;
    }
}

void upsample_h1v2_scalar(const uint8_t *near, const uint8_t *far, int bias, int64_t count, uint8_t *row) {
    for (int64_t i = 0; i < count; i++)
        row[i] = (3 * near[i] + far[i] + bias) >> 2;
}

static uint8_t clipped(int value) {
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

void ycc_to_rgb_scalar(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int64_t count, uint8_t *const rgb[3]) {
    for (int64_t i = 0; i < count; i++) {
        int blue = cb[i] - 128, red = cr[i] - 128;
        rgb[0][i] = clipped(y[i] + ((FIX_1_402 * red + HALF) >> 16));
        rgb[1][i] = clipped(y[i] + ((-FIX_0_344 * blue - FIX_0_714 * red + HALF) >> 16));
        rgb[2][i] = clipped(y[i] + ((FIX_1_772 * blue + HALF) >> 16));
    }
}

void split_rgb_scalar(const uint8_t *pixels, int64_t count, uint8_t *const rgb[3]) {
    for (int64_t i = 0; i < count; i++)
        for (int c = 0; c < 3; c++)
            rgb[c][i] = pixels[3 * i + c];
}

void join_rgb_scalar(const uint8_t *const rgb[3], int64_t count, uint8_t *pixels) {
    for (int64_t i = 0; i < count; i++)
        for (int c = 0; c < 3; c++)
            pixels[3 * i + c] = rgb[c][i];
}

#if HAS_AVX2
#include <immintrin.h>

#define INLINE_AVX2 TARGET_AVX2 static inline __attribute__((always_inline))

/* 32 words. low: samples 0-7 and 16-23; high: samples 8-15 and 24-31, as unpacklo and unpackhi give
 * them. */
struct words {
    __m256i low, high;
};

INLINE_AVX2 __m256i load_32(const uint8_t *bytes) {
    return _mm256_loadu_si256((const __m256i *)bytes);
}

INLINE_AVX2 void store_bytes(uint8_t *to, __m256i first, __m256i second) {
    _mm256_storeu_si256((__m256i *)to, _mm256_packus_epi16(first, second));
}

/* Return 3 * near + far of 32 samples. */
INLINE_AVX2 struct words near_and_far(__m256i near, __m256i far) {
    const __m256i weights = _mm256_set1_epi16(0x0103);
    return (struct words){_mm256_maddubs_epi16(_mm256_unpacklo_epi8(near, far), weights),
                          _mm256_maddubs_epi16(_mm256_unpackhi_epi8(near, far), weights)};
}

INLINE_AVX2 struct words add(struct words a, struct words b) {
    return (struct words){_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
}

/* Return (sums + bias) >> bits. */
INLINE_AVX2 struct words rounded(struct words sums, int bias, int bits) {
    const __m256i more = _mm256_set1_epi16((short)bias);
    struct words shifted = add(sums, (struct words){more, more});
    return (struct words){_mm256_srli_epi16(shifted.low, bits), _mm256_srli_epi16(shifted.high, bits)};
}

/* Store 64 output samples, left[0], right[0], left[1], ..., from words of 0..255. */
INLINE_AVX2 void store_alternated(uint8_t *row, struct words left, struct words right) {
    __m256i low = _mm256_or_si256(left.low, _mm256_slli_epi16(right.low, 8));
    __m256i high = _mm256_or_si256(left.high, _mm256_slli_epi16(right.high, 8));
    _mm_storeu_si128((__m128i *)row, _mm256_castsi256_si128(low));
    _mm_storeu_si128((__m128i *)(row + 16), _mm256_castsi256_si128(high));
    _mm_storeu_si128((__m128i *)(row + 32), _mm256_extracti128_si256(low, 1));
    _mm_storeu_si128((__m128i *)(row + 48), _mm256_extracti128_si256(high, 1));
}

TARGET_AVX2
void upsample_h2v1_avx2(const uint8_t *near, int64_t count, uint8_t *row) {
    for (int64_t i = 0; i < count; i += 32) {
        struct words left = near_and_far(load_32(near + i), load_32(near + i - 1));
        struct words right = near_and_far(load_32(near + i), load_32(near + i + 1));
        store_alternated(row + 2 * i, rounded(left, 1, 2), rounded(right, 2, 2));
    }
}

/* Return the sums of the neighbors of 32 samples: left_of of the left neighbors, right_of of the
 * right ones. `before`, `here` and `after` are the sums of three consecutive groups of 32. */
INLINE_AVX2 struct words left_of(struct words before, struct words here) {
    /* Selects the last half of the first operand and the first half of the second. */
    enum { LAST_AND_FIRST = 0x21 };
    return (struct words){_mm256_alignr_epi8(here.low, _mm256_permute2x128_si256(before.high, here.high, LAST_AND_FIRST), 14),
                          _mm256_alignr_epi8(here.high, here.low, 14)};
}

INLINE_AVX2 struct words right_of(struct words here, struct words after) {
    return (struct words){_mm256_alignr_epi8(here.high, here.low, 2),
                          _mm256_alignr_epi8(_mm256_permute2x128_si256(here.low, after.low, 0x21), here.high, 2)};
}

TARGET_AVX2
void upsample_h2v2_avx2(const uint8_t *near, const uint8_t *far, int64_t count, uint8_t *row) {
    /* Of the 32 samples before the first one, only the last one is used; all are in the row's
     * padding or in the row. */
    struct words before = near_and_far(load_32(near - 32), load_32(far - 32)), here = near_and_far(load_32(near), load_32(far));
    for (int64_t i = 0; i < count; i += 32) {
        struct words after = near_and_far(load_32(near + i + 32), load_32(far + i + 32));
        struct words triple = add(here, add(here, here));
        store_alternated(row + 2 * i, rounded(add(triple, left_of(before, here)), 8, 4),
                         rounded(add(triple, right_of(here, after)), 7, 4));
        before = here, here = after;
    }
}

TARGET_AVX2
void upsample_h1v2_avx2(const uint8_t *near, const uint8_t *far, int bias, int64_t count, uint8_t *row) {
    for (int64_t i = 0; i < count; i += 32) {
        struct words sum = rounded(near_and_far(load_32(near + i), load_32(far + i)), bias, 2);
        store_bytes(row + i, sum.low, sum.high);
    }
}

/* Return a * factor / 65536, rounded half up, for words a of -128..127. pmulhrsw computes (a * f +
 * 2^14) >> 15, so f is half of the factor. f is rounded toward 0 if the factor is odd, which
 * changes none of the 256 products. */
INLINE_AVX2 __m256i product(__m256i a, int factor) {
    return _mm256_mulhrs_epi16(a, _mm256_set1_epi16((short)(factor / 2)));
}

struct rgb_words {
    __m256i r, g, b;
};

/* Convert 16 pixels, as words of 0..255; results are not clipped. */
INLINE_AVX2 struct rgb_words rgb_of(__m256i y, __m256i cb, __m256i cr) {
    const __m256i center = _mm256_set1_epi16(128), half = _mm256_set1_epi32(HALF);
    const __m256i green = _mm256_set1_epi32((int)((uint32_t)(uint16_t)-FIX_0_344 | (uint32_t)(ONE - FIX_0_714) << 16));
    cb = _mm256_sub_epi16(cb, center), cr = _mm256_sub_epi16(cr, center);
    /* 1.402 = 1 + 0.402, 1.772 = 2 - 0.228 and -0.714 = -1 + 0.286, so that all factors fit 16
     * bits. */
    __m256i red = _mm256_add_epi16(_mm256_add_epi16(y, cr), product(cr, FIX_1_402 - ONE));
    __m256i blue = _mm256_add_epi16(_mm256_add_epi16(y, _mm256_add_epi16(cb, cb)), product(cb, FIX_1_772 - 2 * ONE));
    __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), green);
    __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), green);
    __m256i share = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, half), 16),
                                       _mm256_srai_epi32(_mm256_add_epi32(high, half), 16));
    return (struct rgb_words){red, _mm256_add_epi16(_mm256_sub_epi16(y, cr), share), blue};
}

TARGET_AVX2
void ycc_to_rgb_avx2(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int64_t count, uint8_t *const rgb[3]) {
    const __m256i zero = _mm256_setzero_si256();
    uint8_t *const red = rgb[0], *const green = rgb[1], *const blue = rgb[2];
    for (int64_t i = 0; i < count; i += 32) {
        __m256i ys = load_32(y + i);
        __m256i cbs = load_32(cb + i), crs = load_32(cr + i);
        struct rgb_words low = rgb_of(_mm256_unpacklo_epi8(ys, zero), _mm256_unpacklo_epi8(cbs, zero),
                                      _mm256_unpacklo_epi8(crs, zero));
        struct rgb_words high = rgb_of(_mm256_unpackhi_epi8(ys, zero), _mm256_unpackhi_epi8(cbs, zero),
                                       _mm256_unpackhi_epi8(crs, zero));
        store_bytes(red + i, low.r, high.r);
        store_bytes(green + i, low.g, high.g);
        store_bytes(blue + i, low.b, high.b);
    }
}

#define _ -1
/* Shuffles of 16 RGB pixels, which are 48 bytes in three vectors. SPLIT[color][vector] gives the
 * bytes of a color that are in a vector; JOIN[vector][color] gives the bytes of a color for a
 * vector. -1 gives 0. The results of the three shuffles are combined by or. */
static const int8_t SPLIT[3][3][16] = {
    {{0, 3, 6, 9, 12, 15, _, _, _, _, _, _, _, _, _, _}, {_, _, _, _, _, _, 2, 5, 8, 11, 14, _, _, _, _, _},
     {_, _, _, _, _, _, _, _, _, _, _, 1, 4, 7, 10, 13}},
    {{1, 4, 7, 10, 13, _, _, _, _, _, _, _, _, _, _, _}, {_, _, _, _, _, 0, 3, 6, 9, 12, 15, _, _, _, _, _},
     {_, _, _, _, _, _, _, _, _, _, _, 2, 5, 8, 11, 14}},
    {{2, 5, 8, 11, 14, _, _, _, _, _, _, _, _, _, _, _}, {_, _, _, _, _, 1, 4, 7, 10, 13, _, _, _, _, _, _},
     {_, _, _, _, _, _, _, _, _, _, 0, 3, 6, 9, 12, 15}},
};
static const int8_t JOIN[3][3][16] = {
    {{0, _, _, 1, _, _, 2, _, _, 3, _, _, 4, _, _, 5}, {_, 0, _, _, 1, _, _, 2, _, _, 3, _, _, 4, _, _},
     {_, _, 0, _, _, 1, _, _, 2, _, _, 3, _, _, 4, _}},
    {{_, _, 6, _, _, 7, _, _, 8, _, _, 9, _, _, 10, _}, {5, _, _, 6, _, _, 7, _, _, 8, _, _, 9, _, _, 10},
     {_, 5, _, _, 6, _, _, 7, _, _, 8, _, _, 9, _, _}},
    {{_, 11, _, _, 12, _, _, 13, _, _, 14, _, _, 15, _, _}, {_, _, 11, _, _, 12, _, _, 13, _, _, 14, _, _, 15, _},
     {10, _, _, 11, _, _, 12, _, _, 13, _, _, 14, _, _, 15}},
};
#undef _

INLINE_AVX2 __m128i load_16(const void *from) {
    return _mm_loadu_si128((const __m128i *)from);
}

/* Shuffle three vectors and combine them by or. */
INLINE_AVX2 __m128i picked(const __m128i from[3], const int8_t masks[3][16]) {
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(from[0], load_16(masks[0])), _mm_shuffle_epi8(from[1], load_16(masks[1]))),
                        _mm_shuffle_epi8(from[2], load_16(masks[2])));
}

/* Reads no byte after the last pixel: the mapped file may end there. */
TARGET_AVX2
void split_rgb_avx2(const uint8_t *pixels, int64_t count, uint8_t *const rgb[3]) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m128i from[3] = {load_16(pixels + 3 * i), load_16(pixels + 3 * i + 16), load_16(pixels + 3 * i + 32)};
        for (int c = 0; c < 3; c++)
            _mm_storeu_si128((__m128i *)(rgb[c] + i), picked(from, SPLIT[c]));
    }
    for (; i < count; i++)
        for (int c = 0; c < 3; c++)
            rgb[c][i] = pixels[3 * i + c];
}

/* As `picked`, with the same masks for both halves of the vectors. */
INLINE_AVX2 __m256i picked_twice(const __m256i from[3], const int8_t masks[3][16]) {
    __m256i picked = _mm256_setzero_si256();
    for (int c = 0; c < 3; c++)
        picked = _mm256_or_si256(picked, _mm256_shuffle_epi8(from[c], _mm256_broadcastsi128_si256(load_16(masks[c]))));
    return picked;
}

/* Writes no byte after the last pixel: the next output image may begin there. */
TARGET_AVX2
void join_rgb_avx2(const uint8_t *const rgb[3], int64_t count, uint8_t *pixels) {
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        const __m256i from[3] = {load_32(rgb[0] + i), load_32(rgb[1] + i), load_32(rgb[2] + i)};
        for (int part = 0; part < 3; part++) {
            const __m256i both = picked_twice(from, JOIN[part]);
            _mm_storeu_si128((__m128i *)(pixels + 3 * i + 16 * part), _mm256_castsi256_si128(both));
            _mm_storeu_si128((__m128i *)(pixels + 3 * i + 16 * part + 48), _mm256_extracti128_si256(both, 1));
        }
    }
    for (; i + 16 <= count; i += 16) {
        const __m128i from[3] = {load_16(rgb[0] + i), load_16(rgb[1] + i), load_16(rgb[2] + i)};
        for (int part = 0; part < 3; part++)
            _mm_storeu_si128((__m128i *)(pixels + 3 * i + 16 * part), picked(from, JOIN[part]));
    }
    for (; i < count; i++)
        for (int c = 0; c < 3; c++)
            pixels[3 * i + c] = rgb[c][i];
}

/* Converts 24 values (8 pixels) at a time, because the colors of three vectors of 8 values
 * repeat. */
TARGET_AVX2
void to_float16_avx2(const uint8_t *pixels, int64_t count, const float shift[3], const float scale[3], uint16_t *result) {
    __m256 shifts[3], scales[3];
    float shift_24[24], scale_24[24];
    for (int k = 0; k < 24; k++)
        shift_24[k] = shift[k % 3], scale_24[k] = scale[k % 3];
    for (int v = 0; v < 3; v++)
        shifts[v] = _mm256_loadu_ps(shift_24 + 8 * v), scales[v] = _mm256_loadu_ps(scale_24 + 8 * v);
    int64_t i = 0;
    for (; i + 24 <= 3 * count; i += 24)
        for (int v = 0; v < 3; v++) {
            __m256 levels = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pixels + i + 8 * v))));
            __m256 values = _mm256_mul_ps(_mm256_sub_ps(levels, shifts[v]), scales[v]);
            _mm_storeu_si128((__m128i *)(result + i + 8 * v), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
        }
    for (; i < 3 * count; i++) {
        __m128 value = _mm_set_ss(((float)pixels[i] - shift[i % 3]) * scale[i % 3]);
        result[i] = (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT), 0);
    }
}
#endif
