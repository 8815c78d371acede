/* The C kernel's resize: the area under each output pixel where an axis shrinks, bilinear where it grows.
 *
 * Sums are in float, in one fixed order and without fused multiply-add, so that all processors give the same pixels, and the
 * same as kernel_numba.py.
 */

#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#if !defined(FOR_EACH_PROCESSOR) && defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
/* Not for AVX-512: its 512-bit sums slowed the decoder that runs between them by 20 % on an Ice Lake Xeon. */
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#endif
#ifndef FOR_EACH_PROCESSOR
#define FOR_EACH_PROCESSOR
#endif

typedef float floats4 __attribute__((vector_size(16), aligned(4), may_alias));     /* a pixel, and a value of the next */

/* As _taps in kernel_numba.py. Shrinking: the overlap of [i, i + 1) * source / target with each source pixel. Enlarging: linear
 * between the two nearest centres, the border repeated. */
static int64_t taps_stride(int64_t source, int64_t target) {
    return source > target ? source / target + 2 : 2;
}

static void fill_taps(struct taps *taps, int64_t source, int64_t target) {
    taps->stride = taps_stride(source, target);
    taps->most = 0;
    memset(taps->shares, 0, target * taps->stride * sizeof *taps->shares);
    for (int64_t i = 0; i < target; i++) {
        float *shares = taps->shares + i * taps->stride;
        if (source > target) {
            int64_t begin = i * source, end = (i + 1) * source, first = begin / target, last = (end - 1) / target;
            taps->starts[i] = first;
            taps->counts[i] = last - first + 1;
            for (int64_t k = first; k <= last; k++) {
                int64_t low = k * target > begin ? k * target : begin, high = (k + 1) * target < end ? (k + 1) * target : end;
                shares[k - first] = (double)(high - low) / (double)source;
            }
        } else {
            double center = (i + 0.5) * source / target - 0.5;
            center = center < 0 ? 0 : center > source - 1.0 ? source - 1.0 : center;
            int64_t first = (int64_t)center < source - 2 ? (int64_t)center : source > 2 ? source - 2 : 0;
            taps->starts[i] = first;
            taps->counts[i] = source < 2 ? source : 2;
            shares[0] = 1.0 - (center - first);
            shares[1] = center - first;
        }
        taps->most = taps->counts[i] > taps->most ? taps->counts[i] : taps->most;
    }
}

static void mirror_taps(struct taps *taps, int64_t target) {
    for (int64_t i = 0, j = target - 1; i < j; i++, j--) {
        int32_t start = taps->starts[i];
        taps->starts[i] = taps->starts[j], taps->starts[j] = start;
        for (int64_t k = 0; k < taps->stride; k++) {
            float share = taps->shares[i * taps->stride + k];
            taps->shares[i * taps->stride + k] = taps->shares[j * taps->stride + k];
            taps->shares[j * taps->stride + k] = share;
        }
    }
}

/* line = the sum of shares over `count` source rows of `size` bytes. */
INLINE void sum_rows(const uint8_t *restrict rows, int64_t stride, int64_t count, const float *shares, int64_t size,
                     float *restrict line) {
    const float first = shares[0], second = shares[1];
    const uint8_t *restrict below = rows + stride;
    if (count == 1) {
        for (int64_t i = 0; i < size; i++)
            line[i] = first * rows[i];
        return;
    }
    for (int64_t i = 0; i < size; i++)
        line[i] = first * rows[i] + second * below[i];
    for (int64_t k = 2; k < count; k++) {
        const uint8_t *restrict row = rows + k * stride;
        const float share = shares[k];
        for (int64_t i = 0; i < size; i++)
            line[i] += share * row[i];
    }
}

/* Weighted sums along the line, to a row of RGB: levels plus the half that makes cutting off a rounding. */
INLINE void sum_columns(const float *line, const struct taps *taps, int64_t most, int64_t target, float *result) {
    for (int64_t x = 0; x < target; x++) {
        const float *shares = taps->shares + x * taps->stride;
        const float *from = line + 3 * taps->starts[x];
        floats4 sum = (floats4){} + 0.5f;
        for (int64_t k = 0; k < most; k++)
            sum += shares[k] * *(const floats4 *)(from + 3 * k);
        *(floats4 *)(result + 3 * x) = sum;     /* the next pixel writes over the fourth value */
    }
}

INLINE void write_levels(const float *result, int64_t target, uint8_t *row) {
    for (int64_t i = 0; i < 3 * target; i++)
        row[i] = (uint8_t)(int32_t)result[i];
}

/* What stands in the table, [3, 256], for each level. */
INLINE void write_looked_up(const float *result, int64_t target, const uint16_t *table, uint16_t *row) {
    for (int64_t i = 0; i < 3 * target; i += 3)
        for (int c = 0; c < 3; c++)
            row[i + c] = table[256 * c + (uint8_t)(int32_t)result[i + c]];
}

FOR_EACH_PROCESSOR
static void resize_rows(struct resizer *resizer, const uint8_t *pixels, int64_t stride, int64_t width, int64_t resolution,
                        const uint16_t *table, void *output) {
    const struct taps *down = &resizer->down, *across = &resizer->across;
    for (int64_t y = 0; y < resolution; y++) {
        sum_rows(pixels + down->starts[y] * stride, stride, down->counts[y], down->shares + y * down->stride,
                 3 * width, resizer->line);
        if (across->most <= 2)
            sum_columns(resizer->line, across, 2, resolution, resizer->result);
        else if (across->most == 3)
            sum_columns(resizer->line, across, 3, resolution, resizer->result);
        else
            sum_columns(resizer->line, across, across->most, resolution, resizer->result);
        if (table == NULL)
            write_levels(resizer->result, resolution, (uint8_t *)output + y * resolution * 3);
        else
            write_looked_up(resizer->result, resolution, table, (uint16_t *)output + y * resolution * 3);
    }
}

/* The box at `pixels`, whose rows are `stride` bytes apart, to output [resolution, resolution, 3]: levels, or what the table has
 * for them. */
void resize(struct resizer *resizer, const uint8_t *pixels, int64_t stride, int64_t width, int64_t height, int flip,
            int64_t resolution, const uint16_t *table, void *output) {
    fill_taps(&resizer->down, height, resolution);
    fill_taps(&resizer->across, width, resolution);
    if (flip)
        mirror_taps(&resizer->across, resolution);
    resize_rows(resizer, pixels, stride, width, resolution, table, output);
}

void free_resizer(struct resizer *resizer) {
    free(resizer->down.starts);
    free(resizer->down.shares);
    free(resizer->across.starts);
    free(resizer->across.shares);
    free(resizer->line);
    free(resizer->result);
}

/* For boxes of up to `width` x `height`; 0 where there is no memory for it. */
int make_resizer(struct resizer *resizer, int64_t width, int64_t height, int64_t resolution) {
    struct taps *axes[2] = {&resizer->down, &resizer->across};
    const int64_t longest[2] = {height, width};
    for (int axis = 0; axis < 2; axis++) {
        axes[axis]->starts = malloc(2 * resolution * sizeof(int32_t));
        axes[axis]->counts = axes[axis]->starts + resolution;
        axes[axis]->shares = malloc(resolution * taps_stride(longest[axis], resolution) * sizeof(float));
    }
    /* Zeros, because what lies in the padding is added with a share of 0, and must be a number. */
    resizer->line = calloc(3 * (width + taps_stride(width, resolution)) + 1, sizeof(float));
    resizer->result = malloc((3 * resolution + 1) * sizeof(float));
    return resizer->down.starts && resizer->down.shares && resizer->across.starts && resizer->across.shares &&
           resizer->line && resizer->result;
}
