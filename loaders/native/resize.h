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

/* The resize of one crop, whose rows come one after another. */
struct resizer {
    struct weights across, down;
    int num_colors;             /* 1: gray */
    int64_t resolution;
    const struct output_format *format;
    void *output;
    int64_t num_made;           /* output rows */
    int64_t num_taken, slot;    /* rows of the crop; place of the next one in the ring */
    int16_t *ring;              /* [ring_rows, 3, stride] resized rows that are still needed */
    int64_t ring_rows, stride;
    const int16_t **rows;       /* those under an output row */
    uint8_t *levels, *pixels;       /* an output row: [3, stride] of each color, and joined */
    void *memory;
    size_t size;
};

/* Begin to resize a crop of width x height pixels to output [resolution, resolution, 3], mirrored if
 * `flip`. Call resize_row for each of its rows afterwards. Returns 0 if memory is short. */
int begin_resize(struct resizer *resizer, const struct stages *stages, int64_t width, int64_t height, int num_colors, int flip,
                 int64_t resolution, enum interpolation interpolation, const struct output_format *format, void *output);

/* Take the next row of the crop, and write the output rows that need no further one. */
void resize_row(struct resizer *resizer, const struct stages *stages, const uint8_t *const rgb[3]);

void free_resizer(struct resizer *resizer);

#endif
