/* The decoded pixels under the crops of an image, before the resize: RGB, one gray plane, or planes
 * of YCbCr. They are converted to R, G and B row by row, so that these rows stay in the L1
 * cache. */

#ifndef HARNESS_PICTURE_H
#define HARNESS_PICTURE_H

#include "stages.h"

/* A box in pixels of the stored image. */
struct box {
    int64_t left, top, width, height;
};

/* Decoded samples of the part of a component that the crops need. Samples outside the crops are
 * undefined. */
struct plane {
    /* Address of the component's sample (left, top). Each row has ROW_PADDING bytes around it. */
    uint8_t *samples;
    int64_t stride;             /* bytes from row to row */
    int64_t left, top;          /* in samples of the whole component */
    int64_t width, height;      /* of the whole component, in samples; blocks may reach beyond */
};

enum picture_kind { RGB_PIXELS, GREY_PLANE, YCC_PLANES };

/* A range of columns or rows, of pixels, samples or blocks. */
struct span {
    int64_t first, last;        /* empty if last < first */
};

struct picture {
    enum picture_kind kind;
    const struct box *crops;
    int64_t num_crops;
    struct box box;             /* the smallest box around all crops */
    const uint8_t *pixels;      /* RGB_PIXELS: the box's first pixel */
    int64_t stride;             /* RGB_PIXELS: bytes from row to row */
    struct plane planes[3];     /* GREY_PLANE: the first one; YCC_PLANES: Y, Cb, Cr */
    int halved_across, halved_down;     /* chroma has half of luma's samples along this axis */
    /* Scratch rows as wide as the box, with padding: R, G, B, upsampled Cb and Cr. */
    uint8_t *rows[5];
    void *memory;               /* of `rows` */
    size_t size;                /* of `memory`, in bytes */
};

/* Set the crops of a picture, and the box around them. `crops` must outlive the use of the
 * picture. */
void set_crops(struct picture *picture, const struct box *crops, int64_t num_crops);

/* Return the range of columns under those crops that contain one of these rows; empty if none
 * does. */
struct span columns_of(const struct box *crops, int64_t num_crops, int64_t first_row, int64_t last_row);

/* Make room in picture->rows for the picture's box. Returns 0 if memory is short. */
int prepare_rows(struct picture *picture);

/* Convert row y of the stored image, which must be in the box, to rows of R, G and B that begin at
 * the left of the box. Only levels under the crops are defined. `rgb` is valid until the next call.
 * In gray pictures, its three pointers are equal. */
void picture_row(const struct picture *picture, const struct stages *stages, int64_t y, const uint8_t *rgb[3]);

void free_picture(struct picture *picture);

/* Return `size` bytes with ROW_PADDING bytes before and after them, aligned to 64 bytes. Keeps
 * `*memory` if its `*reserved` bytes are enough; otherwise allocates it again, and its content is
 * lost. Returns NULL if memory is short. */
uint8_t *reserve(void **memory, size_t *reserved, size_t size);

static inline int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static inline int64_t round_up(int64_t number, int64_t multiple) {
    return (number + multiple - 1) / multiple * multiple;
}

#endif
