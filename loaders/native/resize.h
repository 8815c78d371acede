/* Resize a crop to an output image; resize.c describes the method. */

#ifndef HARNESS_RESIZE_H
#define HARNESS_RESIZE_H

#include "picture.h"
#include "stages.h"

/* Conversion of the levels of output pixels. */
struct output_format {
    /* [3, 256] float16 bits of each level of each color; NULL: output is uint8 levels */
    const uint16_t *table;
    /* [3] if stages->to_float16 gives the values of the table; otherwise NULL */
    const float *shift, *scale;
};

/* Method of resizing, as in loaders/interpolation.py. BILINEAR and BICUBIC also are the reach of
 * the filter, in pixels. */
enum interpolation { AREA, BILINEAR, BICUBIC };

/* The resize of one crop, which receives one row of the crop at a time. */
struct resizer {
    struct weights across, down;
    int num_colors;             /* 1 if the crop is gray, otherwise 3 */
    int64_t resolution;         /* width and height of the output image, in pixels */
    const struct output_format *format;
    void *output;
    int64_t num_made;           /* output rows that are complete */
    int64_t num_taken, slot;    /* rows of the crop so far; place of the next row in the ring */
    /* [ring_rows, 3, stride] the last ring_rows rows, resized across, in units of 1 / 128 level.
     * ring_rows is at least the number of rows that one output row needs. */
    int16_t *ring;
    int64_t ring_rows, stride;  /* stride: a multiple of 32 */
    /* [ring_rows + 1] Scratch: the rows of the ring that one output row needs. */
    const int16_t **rows;
    /* Scratch for one output row: levels [3, stride] by color, and pixels [stride, 3] RGB. */
    uint8_t *levels, *pixels;
    void *memory;               /* of all arrays above */
    size_t size;                /* of `memory`, in bytes */
};

/* Begin to resize a crop of width x height pixels to `output` [resolution, resolution, 3], mirrored
 * if `flip` is 1. Call resize_row for each row of the crop afterwards. Returns 0 if memory is
 * short. */
int begin_resize(struct resizer *resizer, const struct stages *stages, int64_t width, int64_t height, int num_colors, int flip,
                 int64_t resolution, enum interpolation interpolation, const struct output_format *format, void *output);

/* Add the next row of the crop (rows of R, G and B), and write the output rows that are complete
 * then. */
void resize_row(struct resizer *resizer, const struct stages *stages, const uint8_t *const rgb[3]);

void free_resizer(struct resizer *resizer);

#endif
