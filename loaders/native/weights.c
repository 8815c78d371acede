/* Compute the weights of the resize along an axis, in integers. resize.c has the sums that use
 * them. */

#include <stdlib.h>
#include <string.h>

#include "weights.h"

enum { ONE = 1 << WEIGHT_BITS };

/* BILINEAR and BICUBIC reach `interpolation` pixels to both sides of the center, source pixels if
 * the axis grows, output pixels if it shrinks. AREA: an output pixel touches at most source /
 * target + 2 source pixels. */
int64_t most_needed(int64_t source, int64_t target, enum interpolation interpolation) {
    if (interpolation != AREA)
        return 2 * interpolation * max64(source, target) / target + 1;
    return source > target ? source / target + 2 : 2;
}

/* Return a / b rounded down, for b above 0. */
static int64_t floor_div(int64_t a, int64_t b) {
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

/* Return the filter's value at a distance, multiplied by a constant. `unit` is the distance 1.
 * BICUBIC is equation 4 of Keys (1981) with a = -1/2; the distance is rounded to 14 bits. */
static int64_t filter_weight(enum interpolation interpolation, int64_t distance, int64_t unit) {
    if (interpolation == BILINEAR)
        return max64(unit - distance, 0);
    int64_t one = 1 << 14, t = (distance * one + unit / 2) / unit;
    if (t < one)
        return ((3 * t - 5 * one) * t * t + 2 * one * one * one) >> 19;
    return t < 2 * one ? ((5 * one - t) * t * t - 8 * one * one * t + 4 * one * one * one) >> 19 : 0;
}

/* Compute the weights of BILINEAR or BICUBIC for output pixel i. Sets the number of weights;
 * returns the first source pixel.
 *
 * The sum of the first k weights is the rounded sum of the first k exact weights, so all sum to
 * ONE. Distances are integers, in units of 1 / (2 target) of a source pixel. */
static int64_t fill_filter(int16_t *values, int32_t *count, int64_t i, int64_t source, int64_t target,
                           enum interpolation interpolation) {
    int64_t unit = 2 * max64(source, target), reach = interpolation * unit, center = (2 * i + 1) * source;
    int64_t first = max64(0, floor_div(center - reach - target, 2 * target) + 1);
    int64_t last = min64(source - 1, -floor_div(-(center + reach - target), 2 * target) - 1);
    int64_t sum = 0, done = 0, given = 0;
    for (int64_t k = first; k <= last; k++)
        sum += filter_weight(interpolation, llabs((2 * k + 1) * target - center), unit);
    for (int64_t k = first; k <= last; k++) {
        done += filter_weight(interpolation, llabs((2 * k + 1) * target - center), unit);
        int64_t total = floor_div(2 * ONE * done + sum, 2 * sum);
        values[k - first] = (int16_t)(total - given);
        given = total;
    }
    *count = (int32_t)(last - first + 1);
    return first;
}

/* Quotient and remainder (at least 0) of a division by `source`. Adding two of them needs no
 * division. */
struct quotient {
    int64_t whole, rest;
};

static struct quotient divide(int64_t number, int64_t source) {
    int64_t whole = floor_div(number, source);
    return (struct quotient){whole, number - whole * source};
}

static inline struct quotient add(struct quotient a, struct quotient b, int64_t source) {
    struct quotient sum = {a.whole + b.whole, a.rest + b.rest};
    return sum.rest < source ? sum : (struct quotient){sum.whole + 1, sum.rest - source};
}

/* Compute the weights of AREA if the axis shrinks.
 *
 * Output pixel i covers the source pixels from i * source / target to (i + 1) * source / target.
 * The weight of a source pixel is its share of the covered length. The sum of the first k weights
 * is the rounded sum of the first k shares, so all sum to ONE. Lengths are integers, in units of 1
 * / target of a source pixel: a source pixel has `target` units, an output pixel `source` units. */
static void fill_shares(struct weights *weights, int64_t source, int64_t target, int mirrored) {
    const int64_t advance = source % target;
    const struct quotient pixel = divide(target * ONE, source), next = divide(-advance * ONE, source);
    /* Share of the output pixel's first source pixel, rounded. */
    struct quotient begin = divide(target * ONE + source / 2, source);
    /* First source pixel of the output pixel, and its covered length. */
    int64_t first = 0, covered_first = target;
    for (int64_t i = 0; i < target; i++) {
        int64_t place = mirrored ? target - 1 - i : i, given = 0;
        int32_t count = 0;
        int16_t *values = weights->values + place * weights->stride;
        struct quotient sum = begin;
        for (int64_t covered = covered_first; covered < source; covered += target) {
            values[count++] = (int16_t)(sum.whole - given);
            given = sum.whole;
            sum = add(sum, pixel, source);
        }
        values[count++] = (int16_t)(ONE - given);
        weights->starts[place] = (int32_t)first;
        weights->counts[place] = count;
        weights->most = max64(weights->most, count);
        first += source / target;
        covered_first -= advance;
        begin = add(begin, next, source);
        if (covered_first <= 0) {
            first++;
            covered_first += target;
            begin = add(begin, pixel, source);
        }
    }
}

/* Compute the weights of AREA if the axis grows: linear between the centers of the two nearest
 * source pixels. Before the first and after the last center, that pixel has all the weight. Lengths
 * are integers, in units of 1 / (2 target) of a source pixel. */
static void fill_linear(struct weights *weights, int64_t source, int64_t target, int mirrored) {
    for (int64_t i = 0; i < target; i++) {
        int64_t place = mirrored ? target - 1 - i : i;
        int64_t center = max64(0, min64((2 * i + 1) * source - target, 2 * target * (source - 1)));
        int64_t first = min64(center / (2 * target), max64(source - 2, 0));
        int64_t second = ((center - first * 2 * target) * ONE + target) / (2 * target);
        weights->values[place * weights->stride] = (int16_t)(ONE - second);
        weights->values[place * weights->stride + 1] = (int16_t)second;
        weights->starts[place] = (int32_t)first;
        weights->counts[place] = (int32_t)min64(source, 2);
    }
    weights->most = min64(source, 2);
}

void fill_weights(struct weights *weights, int64_t source, int64_t target, enum interpolation interpolation, int mirrored) {
    weights->most = 0;
    weights->has_negative = interpolation == BICUBIC;
    memset(weights->values, 0, target * weights->stride * sizeof *weights->values);
    if (interpolation == AREA && source > target) {
        fill_shares(weights, source, target, mirrored);
        return;
    }
    if (interpolation == AREA) {
        fill_linear(weights, source, target, mirrored);
        return;
    }
    for (int64_t i = 0; i < target; i++) {
        int64_t place = mirrored ? target - 1 - i : i;
        weights->starts[place] = (int32_t)fill_filter(weights->values + place * weights->stride, &weights->counts[place], i, source,
                                                      target, interpolation);
        weights->most = max64(weights->most, weights->counts[place]);
    }
}

/* Split up to 3 weights into bytes: weight = 128 * high + low.
 *
 * The highs are at least 0 and sum to 128. The lows sum to 0, and those above 0 to at most 128;
 * resize_bytes relies on both. A high of 128 does not fit its byte. If a weight is below ONE but
 * its high would be 128, another high takes 1 of it. If a weight is ONE, both places of its pair
 * get a high of 64, and the caller lets both places refer to its source pixel. Returns the number
 * of that weight, or -1 if no weight is ONE. */
static inline int split(const int16_t *values, int8_t high[4], int8_t low[4]) {
    enum { LOW = 128, HALF = LOW / 2 };
    /* The sum of the first high, and of the first two. */
    int first = (values[0] + HALF) / LOW, second = (values[0] + values[1] + HALF) / LOW;
    int whole = -1;
    if (first == LOW || second - first == LOW || second == 0) {     /* a high of 128 does not fit its byte */
        whole = values[0] == ONE ? 0 : values[1] == ONE ? 1 : values[2] == ONE ? 2 : -1;
        if (values[2] == 0)
            first = first < LOW ? 1 : LOW - 1;
        else if (second == 0)
            second = 1;
        else
            first -= first == LOW, second = LOW - 1;
    }
    const int highs[4] = {first, second - first, LOW - second, 0};
    for (int k = 0; k < 4; k++) {
        high[k] = (int8_t)(whole < 0 ? highs[k] : k / 2 == whole / 2 ? LOW / 2 : 0);
        low[k] = (int8_t)(whole < 0 ? values[k] - LOW * highs[k] : 0);
    }
    return whole;
}

/* Fill the tables of bytes. `group_size` and `block_size` are in output pixels, `window` in bytes;
 * all are compile-time constants. Returns 0 if a group does not fit its window. */
static inline __attribute__((always_inline)) int fill_groups(struct weights *weights, int64_t group_size, int64_t window,
                                                             int64_t block_size) {
    const int64_t target = weights->target, pairs = weights->pairs;
    for (int64_t begin = 0; begin < round_up(target, block_size); begin += group_size) {
        const int64_t in_block = begin % block_size, block = begin / block_size * pairs * 2 * block_size;
        uint8_t *shuffles = weights->shuffles + block + 2 * in_block;
        int8_t *values = weights->byte_values + 2 * block + 2 * in_block;
        int64_t base = INT32_MAX;
        for (int64_t j = 0; j < group_size; j++)
            base = min64(base, weights->starts[min64(begin + j, target - 1)]);
        weights->bases[begin / group_size] = (int32_t)base;
        for (int64_t j = 0; j < group_size; j++, shuffles += 2, values += 2) {
            const int64_t pixel = min64(begin + j, target - 1), first = weights->starts[pixel] - base;
            int8_t high[4], low[4];
            if (first + weights->counts[pixel] > window)
                return 0;
            const int whole = split(weights->values + pixel * weights->stride, high, low);
            for (int64_t pair = 0; pair < pairs; pair++) {
                int8_t *highs = values + pair * 4 * block_size, *lows = highs + 2 * block_size;
                for (int64_t k = 0; k < 2; k++) {
                    shuffles[pair * 2 * block_size + k] = (uint8_t)(first + (whole < 0 ? 2 * pair + k : whole));
                    highs[k] = high[2 * pair + k], lows[k] = low[2 * pair + k];
                }
            }
        }
    }
    return 1;
}

int fill_bytes(struct weights *weights, int has_windows) {
    weights->pairs = (weights->most + 1) / 2;
    weights->has_bytes = weights->most <= 3 && !weights->has_negative &&
                         (has_windows ? fill_groups(weights, 32, 64, 32) : fill_groups(weights, 8, 16, 16));
    return weights->has_bytes;
}

void fill_windows(struct weights *weights) {
    weights->pairs = (weights->most + 1) / 2;
    weights->is_narrow = 1;
    int64_t target = weights->target, pairs = weights->pairs;
    for (int64_t block = 0; weights->is_narrow && block < round_up(target, 32) / 16; block++) {
        int64_t base = INT32_MAX;
        for (int64_t j = 0; j < 16; j++)
            base = min64(base, weights->starts[min64(16 * block + j, target - 1)]);
        weights->bases[block] = (int32_t)base;
        for (int64_t j = 0; j < 16; j++) {
            int64_t pixel = min64(16 * block + j, target - 1), begin = weights->starts[pixel] - base;
            if (begin + weights->counts[pixel] > 64)
                weights->is_narrow = 0;
            for (int64_t pair = 0; pair < pairs; pair++) {
                uint8_t *shuffle = weights->shuffles + (block * pairs + pair) * 64 + 4 * j;
                shuffle[0] = (uint8_t)(begin + 2 * pair), shuffle[2] = (uint8_t)(begin + 2 * pair + 1);
                memcpy(weights->pair_values + (block * pairs + pair) * 32 + 2 * j,
                       weights->values + pixel * weights->stride + 2 * pair, 2 * sizeof(int16_t));
            }
        }
    }
}

void fill_shuffles(struct weights *weights) {
    weights->pairs = (weights->most + 1) / 2;
    weights->is_narrow = 2 * weights->pairs <= 16;
    int64_t target = weights->target, pairs = weights->pairs;
    for (int64_t block = 0; weights->is_narrow && block < (target + 15) / 16; block++)
        for (int64_t group = 0; group < 4; group++) {
            int64_t pixels[4], base = INT32_MAX;
            for (int64_t j = 0; j < 4; j++) {
                pixels[j] = min64(16 * block + 4 * group + j, target - 1);
                base = min64(base, weights->starts[pixels[j]]);
            }
            weights->bases[4 * block + group] = (int32_t)base;
            for (int64_t pair = 0; pair < pairs; pair++) {
                /* In units of 16 bytes of shuffles, or 8 words of pair_values. */
                int64_t place = ((block * pairs + pair) * 2 + group % 2) * 2 + group / 2;
                for (int64_t j = 0; j < 4; j++) {
                    int64_t byte = weights->starts[pixels[j]] - base + 2 * pair;
                    int64_t left = weights->counts[pixels[j]] - 2 * pair;
                    if (byte + min64(left, 2) > 16 && left > 0)
                        weights->is_narrow = 0;
                    uint8_t *shuffle = weights->shuffles + 16 * place + 4 * j;
                    shuffle[0] = (uint8_t)min64(byte, 127), shuffle[2] = (uint8_t)min64(byte + 1, 127);
                    shuffle[1] = shuffle[3] = 0x80;     /* gives 0: high byte of a word */
                    memcpy(weights->pair_values + 8 * place + 2 * j, weights->values + pixels[j] * weights->stride + 2 * pair,
                           2 * sizeof(int16_t));
                }
            }
        }
}
