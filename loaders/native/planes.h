/* An indexed JPEG's planes under a crop; planes.c says how. */

#ifndef HARNESS_PLANES_H
#define HARNESS_PLANES_H

#include "../kernel.h"
#include "picture.h"
#include "stages.h"

struct planes_memory {
    void *blocks, *samples;
    size_t blocks_size, samples_size;
};

/* A component's coefficients: [num_rows, per_row, 64]. */
struct coefficients {
    JCOEF *blocks;
    int64_t per_row, num_rows;
};

/* Decode what `box` needs of an indexed JPEG to picture->planes. Returns 0 if the image has no index, is of a kind that libjpeg has
 * to decode, or is damaged. */
int decode_planes(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                  int64_t size, int64_t width, int64_t height, const struct box *box, struct picture *picture);

#endif
