/* An image's planes under its crops; planes.c and dct_planes.c describe how. */

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

/* Range of a plane's samples along one axis that the pixels first..last need: their own, and one
 * more on both sides if chroma is halved. */
struct span span_of(int64_t first, int64_t last, int is_halved, int64_t size);

/* The columns of blocks of a component, from the first to the last one that the crops need in row
 * `y` of blocks. The plane's width and height must be set. */
struct span blocks_of(const struct picture *picture, int component, int64_t y);

/* Repeat the first and the last sample of each row beyond the border, where upsampling takes their
 * neighbors from. */
void repeat_borders(const struct plane *plane, int64_t num_rows, struct span columns);

/* Decode what the picture's crops need of a `dct` blob to picture->planes. Returns 0 if the blob is
 * damaged or has another size, or memory is short. */
int decode_dct(const struct stages *stages, struct planes_memory *memory, const uint8_t *blob, int64_t size, int64_t width,
               int64_t height, struct picture *picture);

/* Decode what the picture's crops need of an indexed JPEG to picture->planes. Returns 0 if the image
 * has no index, is of a kind that libjpeg has to decode, or is damaged. */
int decode_planes(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                  int64_t size, int64_t width, int64_t height, struct picture *picture);

/* The two parts of decode_planes: header and Huffman codes, to the coefficients of the area `part`; and
 * the inverse DCT, which follows if the first part succeeds. */
int decode_coefficients(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                        int64_t size, int64_t width, int64_t height, struct picture *picture, struct coefficients coefficients[3],
                        struct box *part);
void transform_planes(struct decoder *decoder, const struct stages *stages, const struct coefficients coefficients[3],
                      const struct box *part, int64_t width, int64_t height, struct picture *picture);

#endif
