/* The pixels under the crops of an image, before the resize: as RGB in memory, or as planes of
 * YCbCr. They become rows of R, G and B one at a time, so that these stay in the first-level cache. */

#ifndef HARNESS_PICTURE_H
#define HARNESS_PICTURE_H

#include "stages.h"

/* A box in pixels of the stored image. */
struct box {
    int64_t left, top, width, height;
};

/* Decoded samples of a component: the part of it that the crops need. */
struct plane {
    uint8_t *samples;           /* of (left, top); rows `stride` bytes apart, ROW_PADDING before and after them */
    int64_t stride;
    int64_t left, top;          /* in samples of the whole component */
    int64_t width, height;      /* of the whole component; samples beyond are padding of its blocks */
};

enum picture_kind { RGB_PIXELS, GREY_PLANE, YCC_PLANES };

/* Range of columns or rows. */
struct span {
    int64_t first, last;        /* empty if last < first */
};

struct picture {
    enum picture_kind kind;
    const struct box *crops;
    int64_t num_crops;
    struct box box;             /* the smallest one around all crops */
    const uint8_t *pixels;      /* RGB_PIXELS: of the box's first pixel */
    int64_t stride;
    struct plane planes[3];
    int halved_across, halved_down;     /* chroma has one sample for two of luma */
    uint8_t *rows[5];           /* scratch memory: R, G, B, and upsampled Cb, Cr, each as wide as the box with padding */
    void *memory;
    size_t size;
};

/* The crops of a picture, and the box around them. */
void set_crops(struct picture *picture, const struct box *crops, int64_t num_crops);

/* The columns, from the first to the last one, under those crops that have one of these rows. */
struct span columns_of(const struct box *crops, int64_t num_crops, int64_t first_row, int64_t last_row);

/* Make room in picture->rows for the picture's box. Returns 0 if memory is short. */
int prepare_rows(struct picture *picture);

/* Row y of the stored image, which is in the box, as rows of R, G and B that begin at the box's left.
 * They are defined under the crops. `rgb` points to them until the next call; gray pictures have one
 * row for all three colors. */
void picture_row(const struct picture *picture, const struct stages *stages, int64_t y, const uint8_t *rgb[3]);

void free_picture(struct picture *picture);

/* Memory for `size` bytes and ROW_PADDING before and after them, kept if it is large enough;
 * aligned to 64 bytes. NULL if memory is short. Its content is lost. */
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
