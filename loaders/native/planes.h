/* Decode the planes of an image under its crops, from an indexed JPEG (planes.c) or from a `dct`
 * blob (dct_planes.c). */

#ifndef HARNESS_PLANES_H
#define HARNESS_PLANES_H

#include "../kernel.h"
#include "picture.h"
#include "stages.h"

/* Buffers that are kept from image to image; sizes are in bytes. */
struct planes_memory {
    void *blocks, *samples;         /* coefficients of all components; samples of all planes */
    size_t blocks_size, samples_size;
};

/* The quantized coefficients of a component in the part: [num_rows, per_row, 64], natural order. */
struct coefficients {
    JCOEF *blocks;
    int64_t per_row, num_rows;      /* in blocks: a row, and a column */
};

/* Return the range of samples along one axis that the pixels first..last need. If the axis is
 * halved, these include one more sample on both sides, for upsampling. `size`: samples of the whole
 * plane along the axis. */
struct span span_of(int64_t first, int64_t last, int is_halved, int64_t size);

/* Return the first and the last column of blocks that the crops need in row `y` of blocks of a
 * component. Rows and columns count from the start of the whole component. Set the plane's width
 * first. */
struct span blocks_of(const struct picture *picture, int component, int64_t y);

/* Copy the first and the last sample of each of the plane's `num_rows` rows to the place beyond the
 * border, where upsampling reads their missing neighbor. `columns`: range of samples in the plane;
 * a border that is not in this range is left alone. */
void repeat_borders(const struct plane *plane, int64_t num_rows, struct span columns);

/* Decode the samples that the picture's crops need from a `dct` blob to picture->planes. Returns 0
 * if the blob is damaged, if its size is not width x height pixels, or if memory is short. */
int decode_dct(const struct stages *stages, struct planes_memory *memory, const uint8_t *blob, int64_t size, int64_t width,
               int64_t height, struct picture *picture);

/* Decode the samples that the picture's crops need from an indexed JPEG to picture->planes. Returns
 * 0 if the image has no index, is damaged, or is of a kind that only libjpeg can decode, or if
 * memory is short. */
int decode_planes(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                  int64_t size, int64_t width, int64_t height, struct picture *picture);

/* The two steps of decode_planes. decode_coefficients reads header and Huffman codes, and sets the
 * coefficients of each component and the box `part` (pixels) that they cover; it returns 0 as
 * decode_planes does. After success, transform_planes computes the inverse DCT. */
int decode_coefficients(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                        int64_t size, int64_t width, int64_t height, struct picture *picture, struct coefficients coefficients[3],
                        struct box *part);
void transform_planes(struct decoder *decoder, const struct stages *stages, const struct coefficients coefficients[3],
                      const struct box *part, int64_t width, int64_t height, struct picture *picture);

#endif
