/* Choose random crops without the GIL: the same boxes and flips as loaders/crops.py, which
 * describes the method. */

#include <math.h>

#include "picture.h"

enum { NUM_TRIES = 10, NUM_WORDS = 1 + 2 * NUM_TRIES + 2 };     /* as in augment.py */

/* Increment and output function of splitmix64, as in writers/random_streams.py. */
static const uint64_t GAMMA = 0x9E3779B97F4A7C15;

static uint64_t mix(uint64_t word) {
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9;
    word = (word ^ word >> 27) * 0x94D049BB133111EB;
    return word ^ word >> 31;
}

/* Random word `number` of a sample's stream. */
static uint64_t word_at(uint64_t stream, int64_t number) {
    return mix(stream + (uint64_t)(number + 1) * GAMMA);
}

/* Return a number in [0, 1) from the highest 53 bits. */
static double uniform(uint64_t word) {
    return (double)(word >> 11) * 0x1p-53;
}

/* Limits of a crop: its share of the image's area, and its width divided by its height, also as
 * natural logarithm. */
struct ranges {
    double least_scale, most_scale, least_ratio, most_ratio, least_log, most_log;
};

/* Choose a crop with the random words from number `first` on. Word `first` is that of the flip. */
static struct box choose_box(const struct ranges *ranges, uint64_t stream, int64_t first, int64_t width, int64_t height) {
    for (int64_t number = first + 1; number < first + 1 + 2 * NUM_TRIES; number += 2) {
        double share = ranges->least_scale + (ranges->most_scale - ranges->least_scale) * uniform(word_at(stream, number));
        double log_ratio = ranges->least_log + (ranges->most_log - ranges->least_log) * uniform(word_at(stream, number + 1));
        double area = (double)(width * height) * share, ratio = exp(log_ratio);
        double box_width = rint(sqrt(area * ratio)), box_height = rint(sqrt(area / ratio));
        if (!(box_width > 0 && box_width <= (double)width && box_height > 0 && box_height <= (double)height))
            continue;
        double left = uniform(word_at(stream, first + NUM_WORDS - 2)), top = uniform(word_at(stream, first + NUM_WORDS - 1));
        return (struct box){(int64_t)floor(left * (double)(width - (int64_t)box_width + 1)),
                            (int64_t)floor(top * (double)(height - (int64_t)box_height + 1)), (int64_t)box_width,
                            (int64_t)box_height};
    }
    double whole_ratio = (double)width / (double)height;
    int64_t box_width = whole_ratio > ranges->most_ratio ? (int64_t)rint((double)height * ranges->most_ratio) : width;
    int64_t box_height = whole_ratio < ranges->least_ratio ? (int64_t)rint((double)width / ranges->least_ratio) : height;
    box_width = max64(box_width, 1), box_height = max64(box_height, 1);
    return (struct box){(width - box_width) >> 1, (height - box_height) >> 1, box_width, box_height};
}

/* Choose `num_views` crops of each of n samples: boxes [n, num_views] and flips [n, num_views]. All
 * flips are 0 if `has_flips` is 0. */
__attribute__((visibility("default")))
void harness_choose_crops(uint64_t seed, uint64_t epoch, const uint64_t *ids, const int64_t *widths, const int64_t *heights,
                          int64_t n, int64_t num_views, const struct ranges *ranges, int has_flips, struct box *boxes,
                          uint8_t *flips) {
    const uint64_t key = mix(mix(seed + GAMMA) + epoch);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t stream = mix(key + (ids[i] + 1) * GAMMA);
        for (int64_t view = 0; view < num_views; view++) {
            const int64_t first = view * NUM_WORDS;
            boxes[i * num_views + view] = choose_box(ranges, stream, first, widths[i], heights[i]);
            flips[i * num_views + view] = has_flips && word_at(stream, first) >> 63;
        }
    }
}
