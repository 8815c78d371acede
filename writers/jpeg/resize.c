/* Shrink images, for resize.py, which describes the method. The output equals that of
 * resize_numba.py byte for byte. Runs without the GIL. */

#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

/* ONE: sum of the shares of a new pixel along one axis. HALF: half a level, with the 24 fractional
 * bits of both axes. */
enum { ONE = 1 << 12, HALF = 1 << 23 };

/* The shares of source pixels in new pixels along one axis. */
struct taps {
    /* [target] first source pixel and number of source pixels of a new pixel */
    int32_t *starts, *counts;
    /* [target, most] in units of 1 / ONE; those of a new pixel after its first `counts` are 0 */
    uint32_t *shares;
    int32_t most;               /* largest of `counts`, but at least 3, which sum_rows reads */
};

/* Scratch memory: two rows that were shrunk vertically but not yet horizontally, of
 * source_width pixels. */
struct lines {
    uint32_t *upper, *lower;    /* levels with 12 fractional bits */
    uint64_t *both;             /* upper in the low, lower in the high 32 bits */
};

/* Compute the shares. A new pixel covers numerator / denominator source pixels. Returns 0 if memory
 * is short. */
static int make_taps(struct taps *taps, int64_t source, int64_t target, int64_t numerator, int64_t denominator) {
    taps->most = numerator / denominator + 2 > 3 ? numerator / denominator + 2 : 3;
    taps->starts = malloc(2 * target * sizeof(int32_t));
    taps->shares = calloc(target * taps->most, sizeof(uint32_t));
    if (taps->starts == NULL || taps->shares == NULL)
        return 0;
    taps->counts = taps->starts + target;
    for (int64_t i = 0; i < target; i++) {
        int64_t begin = i * numerator, end = begin + numerator;     /* in units of 1 / denominator of a source pixel */
        int64_t first = begin / denominator < source - 1 ? begin / denominator : source - 1;
        int64_t last = (end - 1) / denominator < source - 1 ? (end - 1) / denominator : source - 1;
        int64_t given = 0;
        taps->starts[i] = first;
        taps->counts[i] = last - first + 1;
        for (int64_t k = first; k <= last; k++) {
            int64_t covered = k == last || end < (k + 1) * denominator ? end : (k + 1) * denominator;
            int64_t total = ((covered - begin) * ONE + numerator / 2) / numerator;
            taps->shares[i * taps->most + k - first] = total - given;
            given = total;
        }
    }
    return 1;
}

/* Set line [size] to the sum of `count` rows of `size` bytes, multiplied by their shares. Factors
 * have 16 bits, because every processor has vector instructions for such products. Sums are at most
 * 255 * ONE. */
INLINE void sum_rows(const uint8_t *restrict rows, int64_t stride, int64_t count, const uint32_t *shares, int64_t size,
                     uint32_t *restrict line) {
    const uint16_t first = shares[0], second = shares[1], third = shares[2];
    const uint8_t *restrict below = rows + stride, *restrict under = rows + 2 * stride;
    if (count == 1) {
        for (int64_t i = 0; i < size; i++)
            line[i] = first * rows[i];
    } else if (count == 2) {
        for (int64_t i = 0; i < size; i++)
            line[i] = first * rows[i] + second * below[i];
    } else {
        for (int64_t i = 0; i < size; i++)
            line[i] = first * rows[i] + second * below[i] + third * under[i];
    }
    for (int64_t k = 3; k < count; k++) {
        const uint8_t *restrict row = rows + k * stride;
        const uint16_t share = shares[k];
        for (int64_t i = 0; i < size; i++)
            line[i] += share * row[i];
    }
}

/* Shrink two lines horizontally at once, one in each half of 64 bits. The sum of a half is at most 255 *
 * 2^24 + HALF, below 2^32, so it does not carry into the other half. `most` is taps->most, and
 * `channels` the number of values of a pixel; both are compile-time constants for their usual
 * values. */
INLINE void sum_columns(const uint64_t *restrict lines, const struct taps *taps, int64_t most, int64_t channels, int64_t target,
                        uint8_t *upper, uint8_t *lower) {
    for (int64_t x = 0; x < target; x++) {
        const uint32_t *shares = taps->shares + x * most;
        const uint64_t *from = lines + taps->starts[x] * channels;
        for (int64_t c = 0; c < channels; c++) {
            uint64_t sum = HALF | (uint64_t)HALF << 32;     /* 24 fractional bits */
            for (int64_t k = 0; k < most; k++)
                sum += shares[k] * from[k * channels + c];
            lower[x * channels + c] = sum >> 56;
            upper[x * channels + c] = sum >> 24;
        }
    }
}

/* Shrink all rows, two at a time. */
FOR_EACH_PROCESSOR
static void shrink_rows(uint8_t *output, int64_t output_stride, int64_t width, int64_t height, const uint8_t *pixels,
                        int64_t stride, int64_t source_width, int64_t channels, const struct taps *across,
                        const struct taps *down, struct lines *lines) {
    const int64_t size = source_width * channels;
    for (int64_t y = 0; y < height; y += 2) {
        const int64_t next = y + 1 < height ? y + 1 : y;
        uint8_t *upper = output + y * output_stride, *lower = output + next * output_stride;
        sum_rows(pixels + down->starts[y] * stride, stride, down->counts[y], down->shares + y * down->most, size, lines->upper);
        sum_rows(pixels + down->starts[next] * stride, stride, down->counts[next], down->shares + next * down->most, size,
                 lines->lower);
        for (int64_t i = 0; i < size; i++)
            lines->both[i] = lines->upper[i] | (uint64_t)lines->lower[i] << 32;
        if (across->most == 3 && channels == 1)
            sum_columns(lines->both, across, 3, 1, width, upper, lower);
        else if (across->most == 4 && channels == 1)
            sum_columns(lines->both, across, 4, 1, width, upper, lower);
        else if (across->most == 3 && channels == 3)
            sum_columns(lines->both, across, 3, 3, width, upper, lower);
        else
            sum_columns(lines->both, across, across->most, channels, width, upper, lower);
    }
}

/* Shrink `pixels` [source_height, source_width, channels] to `output` [height, width, channels].
 * Rows are `stride` and `output_stride` bytes apart. A new pixel covers x_numerator / x_denominator
 * source pixels across, and y_numerator / y_denominator down. Returns 0 if memory is short. */
int harness_shrink(uint8_t *output, int64_t output_stride, int64_t width, int64_t height, const uint8_t *pixels, int64_t stride,
                   int64_t source_width, int64_t source_height, int64_t channels, int64_t x_numerator, int64_t x_denominator,
                   int64_t y_numerator, int64_t y_denominator) {
    struct taps across = {0}, down = {0};
    struct lines lines = {0};
    const int64_t size = source_width * channels;
    int done = make_taps(&across, source_width, width, x_numerator, x_denominator) &&
               make_taps(&down, source_height, height, y_numerator, y_denominator) &&
               (lines.upper = malloc(2 * size * sizeof(uint32_t))) != NULL &&
               /* sum_columns reads `most` pixels from each start: zeros follow the last pixel. */
               (lines.both = calloc(size + across.most * channels, sizeof(uint64_t))) != NULL;
    if (done) {
        lines.lower = lines.upper + size;
        shrink_rows(output, output_stride, width, height, pixels, stride, source_width, channels, &across, &down, &lines);
    }
    free(across.starts);
    free(across.shares);
    free(down.starts);
    free(down.shares);
    free(lines.upper);
    free(lines.both);
    return done;
}
