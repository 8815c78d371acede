/* The resize of a crop to an output image; resize.c describes how. */

#ifndef HARNESS_RESIZE_H
#define HARNESS_RESIZE_H

#include "picture.h"
#include "stages.h"

/* Conversion of output pixels. */
struct output_format {
    const uint16_t *table;      /* float16 bits [3, 256] of each color's levels; NULL: levels */
    const float *shift, *scale; /* [3], if stages->to_float16 reproduces the table; otherwise NULL */
};

/* How pixels are weighted; as in loaders/interpolation.py. */
enum interpolation { AREA, BILINEAR, BICUBIC };

struct resizer {
    struct weights across, down;
    int16_t *ring;              /* [ring_rows, 3, padded target] resized rows that are still needed */
    int64_t ring_rows;
    const int16_t **rows;       /* those under an output row */
    uint8_t *levels[3], *pixels;    /* an output row: of each color, and joined */
    void *memory;
    size_t size;
};

/* Resize the box of `picture` to output [resolution, resolution, 3], mirrored if `flip`. Returns 0
 * if memory is short. */
int resize_picture(struct resizer *resizer, const struct stages *stages, struct picture *picture, int flip, int64_t resolution,
                   enum interpolation interpolation, const struct output_format *format, void *output);

void free_resizer(struct resizer *resizer);

#endif
