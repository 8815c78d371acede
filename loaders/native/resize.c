/* Resize a crop, in integers.
 *
 * AREA averages the area under each output pixel if an axis shrinks, and interpolates linearly if
 * it grows. BILINEAR and BICUBIC are Pillow's filters; if an axis shrinks, they are stretched
 * (antialiasing). Results differ from Pillow's by at most one level if Pillow also resizes across
 * first. (Pillow 13 resizes tall images down first. Levels are clipped between the axes, so 0.01 %
 * of a photograph's levels then differ by 2 to 7 in bicubic.)
 *
 * The weights of an output pixel have 14 bits and sum to 16384. A crop is resized across first, to
 * 16 bits in units of 1 / 128 level, then down:
 *     row[x] = (sum of across[x, k] * level[x + k] + 64) >> 7, at least 0 and at most 255 * 128
 *     level  = (sum of down[y, k] * row[y + k] + 2^20) >> 21, at least 0 and at most 255
 * Integer sums do not depend on their order, so C, numba, numpy and torch agree bit for bit.
 * (resize_numba.py and backends/reference.py have the same equations.) Sums fit 32 bits: across,
 * 255 * 16384 is below 2^22; down, 255 * 128 * 16384 is below 2^29. With BICUBIC, whose weights may
 * be negative, sums are less than twice as large.
 */

#include <stdlib.h>
#include <string.h>

#include "resize.h"
#include "weights.h"

/* Allocator of parts of one buffer, aligned to 64 bytes. If `base` is NULL, it only counts the
 * size. */
struct arena {
    uint8_t *base;
    size_t used;
};

static void *take(struct arena *arena, size_t size) {
    uint8_t *taken = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used += (size + 63) / 64 * 64;
    return taken;
}

static void lay_out_weights(struct weights *weights, int64_t source, int64_t target, enum interpolation interpolation,
                            int for_vectors, struct arena *arena) {
    int64_t padded = round_up(target, 32), most = most_needed(source, target, interpolation), pairs = (most + 1) / 2;
    weights->target = target;
    weights->stride = round_up(most, 16);
    weights->starts = take(arena, target * sizeof(int32_t));
    weights->counts = take(arena, target * sizeof(int32_t));
    weights->values = take(arena, target * weights->stride * sizeof(int16_t));
    if (for_vectors) {
        weights->bases = take(arena, padded / 4 * sizeof(int32_t));
        weights->shuffles = take(arena, padded * pairs * 4);
        weights->pair_values = take(arena, padded * pairs * 4);
        weights->byte_values = (int8_t *)weights->pair_values;
    }
}

/* Set the arrays of a resizer. Call it first with an arena without memory, to count the size. */
static void lay_out(struct resizer *resizer, int64_t width, int64_t height, int64_t resolution, enum interpolation interpolation,
                    struct arena *arena) {
    resizer->stride = round_up(resolution, 32);     /* vector code processes 32 columns at a time */
    lay_out_weights(&resizer->across, width, resolution, interpolation, 1, arena);
    lay_out_weights(&resizer->down, height, resolution, interpolation, 0, arena);
    resizer->ring_rows = most_needed(height, resolution, interpolation);
    resizer->ring = take(arena, resizer->ring_rows * 3 * resizer->stride * sizeof(int16_t));
    resizer->rows = take(arena, (resizer->ring_rows + 1) * sizeof(int16_t *));
    resizer->levels = take(arena, 3 * resizer->stride + ROW_PADDING);
    resizer->pixels = take(arena, 3 * resizer->stride);
}

int begin_resize(struct resizer *resizer, const struct stages *stages, int64_t width, int64_t height, int num_colors, int flip,
                 int64_t resolution, enum interpolation interpolation, const struct output_format *format, void *output) {
    struct arena arena = {0};
    lay_out(resizer, width, height, resolution, interpolation, &arena);
    arena = (struct arena){reserve(&resizer->memory, &resizer->size, arena.used), 0};
    if (arena.base == NULL)
        return 0;
    lay_out(resizer, width, height, resolution, interpolation, &arena);
    fill_weights(&resizer->across, width, resolution, interpolation, flip);
    if (!fill_bytes(&resizer->across, stages->has_windows))
        (stages->has_windows ? fill_windows : fill_shuffles)(&resizer->across);
    fill_weights(&resizer->down, height, resolution, interpolation, 0);
    resizer->num_colors = num_colors;
    resizer->resolution = resolution;
    resizer->format = format;
    resizer->output = output;
    resizer->num_made = resizer->num_taken = resizer->slot = 0;
    return 1;
}

/* Convert resizer->levels to the next output row. */
static void write_pixels(const struct resizer *resizer, const struct stages *stages) {
    const struct output_format *format = resizer->format;
    const int64_t resolution = resizer->resolution, begin = resizer->num_made * resolution * 3;
    const uint8_t *levels[3];
    for (int c = 0; c < 3; c++)
        levels[c] = resizer->levels + (resizer->num_colors == 3 ? c : 0) * resizer->stride;
    if (format->table == NULL) {
        stages->join_rgb(levels, resolution, (uint8_t *)resizer->output + begin);
        return;
    }
    uint16_t *row = (uint16_t *)resizer->output + begin;
    if (stages->to_float16 != NULL && format->shift != NULL) {
        stages->join_rgb(levels, resolution, resizer->pixels);
        stages->to_float16(resizer->pixels, resolution, format->shift, format->scale, row);
        return;
    }
    for (int64_t x = 0; x < resolution; x++)
        for (int c = 0; c < 3; c++)
            row[3 * x + c] = format->table[256 * c + levels[c][x]];
}

/* Make the next output row. The last row that it needs is the last one added to the ring, since
 * resize_row makes each output row as soon as possible. */
static void make_row(struct resizer *resizer, const struct stages *stages) {
    const int64_t ring_rows = resizer->ring_rows, slot = resizer->slot, count = resizer->down.counts[resizer->num_made];
    const int16_t *values = resizer->down.values + resizer->num_made * resizer->down.stride, **rows = resizer->rows;
    for (int64_t k = 0, place = slot < count ? slot - count + ring_rows : slot - count; k < count; k++) {
        rows[k] = resizer->ring + place * 3 * resizer->stride;
        place = place + 1 < ring_rows ? place + 1 : 0;
    }
    /* If count is odd, this is the second row of the last pair; its weight is 0. */
    rows[count] = rows[count - 1];
    stages->resize_down(rows, values, count, resizer->num_colors * resizer->stride, resizer->levels);
    write_pixels(resizer, stages);
    resizer->num_made++;
}

void resize_row(struct resizer *resizer, const struct stages *stages, const uint8_t *const rgb[3]) {
    const struct weights *down = &resizer->down;
    stages->resize_across(rgb, resizer->num_colors, &resizer->across, resizer->ring + resizer->slot * 3 * resizer->stride,
                          resizer->stride);
    resizer->slot = resizer->slot + 1 < resizer->ring_rows ? resizer->slot + 1 : 0;
    resizer->num_taken++;
    while (resizer->num_made < resizer->resolution &&
           down->starts[resizer->num_made] + down->counts[resizer->num_made] <= resizer->num_taken)
        make_row(resizer, stages);
}

void free_resizer(struct resizer *resizer) {
    free(resizer->memory);
    resizer->memory = NULL;
    resizer->size = 0;
}

/* Round a sum of the resize across, and limit it to the range of rows. */
static inline int16_t clamp_row(int32_t sum) {
    sum >>= ROUND_ACROSS;
    return (int16_t)(sum < 0 ? 0 : sum > MOST_ACROSS ? MOST_ACROSS : sum);
}

/* Same as the loop of resize_color if no weight is negative, with `count` products for each output
 * pixel. `count` is a compile-time constant, so that the loop is unrolled. Weights after `counts`
 * are 0, and the levels after the crop that are read are padding. */
static inline void resize_few(const uint8_t *row, const struct weights *weights, int64_t count, int16_t *result) {
    for (int64_t x = 0; x < weights->target; x++) {
        const int16_t *values = weights->values + x * weights->stride;
        const uint8_t *from = row + weights->starts[x];
        int32_t sum = 1 << (ROUND_ACROSS - 1);
        for (int64_t k = 0; k < count; k++)
            sum += values[k] * from[k];
        result[x] = (int16_t)(sum >> ROUND_ACROSS);
    }
}

static void resize_color(const uint8_t *row, const struct weights *weights, int16_t *result) {
    if (weights->most <= 4 && !weights->has_negative) {
        if (weights->most <= 2)
            resize_few(row, weights, 2, result);
        else if (weights->most == 3)
            resize_few(row, weights, 3, result);
        else
            resize_few(row, weights, 4, result);
        return;
    }
    for (int64_t x = 0; x < weights->target; x++) {
        const int16_t *values = weights->values + x * weights->stride;
        const uint8_t *from = row + weights->starts[x];
        int32_t sum = 1 << (ROUND_ACROSS - 1);
        for (int64_t k = 0; k < weights->counts[x]; k++)
            sum += values[k] * from[k];
        result[x] = clamp_row(sum);
    }
}

void resize_across_scalar(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result,
                          int64_t stride) {
    for (int64_t c = 0; c < num_colors; c++)
        resize_color(rows[c], weights, result + c * stride);
}

/* Processes 32 columns row by row, which compilers vectorize. */
void resize_down_scalar(const int16_t *const *rows, const int16_t *values, int64_t num_rows, int64_t count, uint8_t *result) {
    enum { COLUMNS = 32 };
    /* `count` is a multiple of COLUMNS: it is a number of whole strides. */
    for (int64_t begin = 0; begin < count; begin += COLUMNS) {
        int32_t sums[COLUMNS];
        for (int x = 0; x < COLUMNS; x++)
            sums[x] = 1 << (ROUND_DOWN - 1);
        for (int64_t k = 0; k < num_rows; k++)
            for (int x = 0; x < COLUMNS; x++)
                sums[x] += values[k] * rows[k][begin + x];
        for (int x = 0; x < COLUMNS; x++) {
            /* The type is int32_t, because compilers do not vectorize 64 bits here. */
            int32_t level = sums[x] >> ROUND_DOWN;
            level = level < 0 ? 0 : level;
            result[begin + x] = (uint8_t)(level > 255 ? 255 : level);
        }
    }
}

#if HAS_AVX2
#include <immintrin.h>

#define INLINE_AVX2 TARGET_AVX2 static inline __attribute__((always_inline))

/* Load 16 bytes to each half of a vector. */
INLINE_AVX2 __m256i load_two(const uint8_t *low, const uint8_t *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}

/* Shift sums of the resize across to rows, and pack them. The sums began with half a unit, for
 * rounding. */
INLINE_AVX2 __m256i shifted_across(const struct weights *weights, __m256i low, __m256i high) {
    __m256i row = _mm256_packs_epi32(_mm256_srai_epi32(low, ROUND_ACROSS), _mm256_srai_epi32(high, ROUND_ACROSS));
    if (!weights->has_negative)
        return row;
    return _mm256_max_epi16(_mm256_min_epi16(row, _mm256_set1_epi16(MOST_ACROSS)), _mm256_setzero_si256());
}

/* Resize across with tables of words (struct weights, is_narrow): a block of 16 output pixels at a
 * time.
 *
 * Each group of 4 output pixels has a window of 16 bytes. For each pair, a shuffle gives words of
 * two source pixels of each output pixel, and pmaddwd multiplies and adds them. `even` are groups 0
 * and 2, `odd` groups 1 and 3. `pairs` is weights->pairs, `num_colors` 1 or 3; both are
 * compile-time constants for their usual values. Writes up to 15 columns after the last one, below
 * the stride. */
INLINE_AVX2 void resize_narrow(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int64_t pairs,
                               int16_t *restrict result, int64_t stride) {
    const __m256i half = _mm256_set1_epi32(1 << (ROUND_ACROSS - 1));
    for (int64_t block = 0; block < (weights->target + 15) / 16; block++) {
        const __m256i *shuffles = (const __m256i *)weights->shuffles + 2 * block * pairs;
        const __m256i *values = (const __m256i *)weights->pair_values + 2 * block * pairs;
        const int32_t *bases = weights->bases + 4 * block;
        for (int64_t c = 0; c < num_colors; c++) {
            const uint8_t *row = rows[c];
            __m256i even = load_two(row + bases[0], row + bases[2]), odd = load_two(row + bases[1], row + bases[3]);
            __m256i even_sum = half, odd_sum = half;
            for (int64_t pair = 0; pair < 2 * pairs; pair += 2) {
                even_sum = _mm256_add_epi32(
                    even_sum, _mm256_madd_epi16(_mm256_shuffle_epi8(even, _mm256_loadu_si256(shuffles + pair)),
                                                _mm256_loadu_si256(values + pair)));
                odd_sum = _mm256_add_epi32(
                    odd_sum, _mm256_madd_epi16(_mm256_shuffle_epi8(odd, _mm256_loadu_si256(shuffles + pair + 1)),
                                               _mm256_loadu_si256(values + pair + 1)));
            }
            _mm256_storeu_si256((__m256i *)(result + c * stride + 16 * block), shifted_across(weights, even_sum, odd_sum));
        }
    }
}

/* The same with weights of bytes (struct weights, has_bytes): 8 output pixels from each window of
 * 16 bytes.
 *
 * (sum of (128 * high + low) * level + 64) >> 7 equals the sum of high * level, plus (the sum of
 * low * level + 64) >> 7. Both sums fit an int16: highs are at least 0 and sum to 128; lows above 0
 * sum to at most 128, those below to at least -128; and 255 * 128 is at most 32767. So pmaddubsw
 * does not saturate. */
INLINE_AVX2 void resize_bytes(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int64_t pairs,
                              int16_t *restrict result, int64_t stride) {
    /* pmulhrsw with this factor is a rounded shift right by 7. */
    const __m256i shift = _mm256_set1_epi16(1 << (15 - ROUND_ACROSS));
    for (int64_t block = 0; block < (weights->target + 15) / 16; block++) {
        const __m256i *shuffles = (const __m256i *)weights->shuffles + block * pairs;
        const __m256i *values = (const __m256i *)weights->byte_values + 2 * block * pairs;
        const int32_t *bases = weights->bases + 2 * block;
        for (int64_t c = 0; c < num_colors; c++) {
            __m256i levels = load_two(rows[c] + bases[0], rows[c] + bases[1]);
            __m256i high = _mm256_setzero_si256(), low = high;
            for (int64_t pair = 0; pair < pairs; pair++) {
                __m256i taps = _mm256_shuffle_epi8(levels, _mm256_loadu_si256(shuffles + pair));
                high = _mm256_add_epi16(high, _mm256_maddubs_epi16(taps, _mm256_loadu_si256(values + 2 * pair)));
                low = _mm256_add_epi16(low, _mm256_maddubs_epi16(taps, _mm256_loadu_si256(values + 2 * pair + 1)));
            }
            _mm256_storeu_si256((__m256i *)(result + c * stride + 16 * block),
                                _mm256_add_epi16(high, _mm256_mulhrs_epi16(low, shift)));
        }
    }
}

/* Return 8 partial sums of `count` products. Reads 16 levels and weights at a time; weights after
 * `count` are 0. */
INLINE_AVX2 __m256i weighted(const uint8_t *from, const int16_t *values, int64_t count) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t k = 0; k < count; k += 16) {
        __m256i levels = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(from + k)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(levels, _mm256_loadu_si256((const __m256i *)(values + k))));
    }
    return sum;
}

/* Resize across for any scale, without tables: 4 output pixels at a time. */
INLINE_AVX2 void resize_wide(const uint8_t *row, const struct weights *weights, int16_t *result) {
    const __m256i half = _mm256_set1_epi32(1 << (ROUND_ACROSS - 1));
    for (int64_t x = 0; x < weights->target; x += 4) {
        __m256i sums[4];
        for (int64_t j = 0; j < 4; j++) {
            int64_t i = x + j < weights->target ? x + j : weights->target - 1;
            sums[j] = weighted(row + weights->starts[i], weights->values + i * weights->stride, weights->counts[i]);
        }
        __m256i four = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        four = _mm256_add_epi32(_mm256_add_epi32(four, _mm256_permute2x128_si256(four, four, 1)), half);
        _mm_storel_epi64((__m128i *)(result + x), _mm256_castsi256_si128(shifted_across(weights, four, four)));
    }
}

INLINE_AVX2 void resize_colors(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result,
                               int64_t stride) {
    if (weights->has_bytes && weights->pairs == 1)
        resize_bytes(rows, num_colors, weights, 1, result, stride);
    else if (weights->has_bytes)
        resize_bytes(rows, num_colors, weights, 2, result, stride);
    else if (weights->pairs == 1)
        resize_narrow(rows, num_colors, weights, 1, result, stride);
    else if (weights->pairs == 2)
        resize_narrow(rows, num_colors, weights, 2, result, stride);
    else
        resize_narrow(rows, num_colors, weights, weights->pairs, result, stride);
}

TARGET_AVX2
void resize_across_avx2(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result,
                        int64_t stride) {
    if (!weights->is_narrow && !weights->has_bytes)
        for (int64_t c = 0; c < num_colors; c++)
            resize_wide(rows[c], weights, result + c * stride);
    else if (num_colors == 3)
        resize_colors(rows, 3, weights, result, stride);
    else
        resize_colors(rows, 1, weights, result, stride);
}

/* Return the two weights of a pair of rows, in each 32 bits. */
INLINE_AVX2 __m256i pair_of(const int16_t *values, int64_t pair) {
    int32_t both;
    memcpy(&both, values + 2 * pair, sizeof both);
    return _mm256_set1_epi32(both);
}

/* Resize down: weighted sums of rows, two rows with one pmaddwd. `pairs` is a compile-time constant
 * for its usual values. rows[2 * pairs - 1] may be a row of weight 0. */
INLINE_AVX2 void sum_rows(const int16_t *const *rows, const int16_t *values, int64_t pairs, int64_t count,
                          uint8_t *restrict result) {
    const __m256i half = _mm256_set1_epi32(1 << (ROUND_DOWN - 1));
    for (int64_t x = 0; x < count; x += 32) {
        __m256i words[2];
        for (int part = 0; part < 2; part++) {
            __m256i low = half, high = half;
            for (int64_t pair = 0; pair < pairs; pair++) {
                __m256i first = _mm256_loadu_si256((const __m256i *)(rows[2 * pair] + x + 16 * part));
                __m256i second = _mm256_loadu_si256((const __m256i *)(rows[2 * pair + 1] + x + 16 * part));
                low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), pair_of(values, pair)));
                high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), pair_of(values, pair)));
            }
            words[part] = _mm256_packs_epi32(_mm256_srai_epi32(low, ROUND_DOWN), _mm256_srai_epi32(high, ROUND_DOWN));
        }
        _mm256_storeu_si256((__m256i *)(result + x), _mm256_permute4x64_epi64(_mm256_packus_epi16(words[0], words[1]), 0xD8));
    }
}

TARGET_AVX2
void resize_down_avx2(const int16_t *const *rows, const int16_t *values, int64_t num_rows, int64_t count, uint8_t *result) {
    int64_t pairs = (num_rows + 1) / 2;
    if (pairs == 1)
        sum_rows(rows, values, 1, count, result);
    else if (pairs == 2)
        sum_rows(rows, values, 2, count, result);
    else
        sum_rows(rows, values, pairs, count, result);
}
#endif
