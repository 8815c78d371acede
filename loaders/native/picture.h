/* The pixels under a crop, before the resize: as RGB in memory, or as planes of YCbCr that become
 * RGB row by row. */

#ifndef HARNESS_PICTURE_H
#define HARNESS_PICTURE_H

#include "stages.h"

/* A box in pixels of the stored image. */
struct box {
    int64_t left, top, width, height;
};

/* Decoded samples of a component: the part of it that a crop needs. */
struct plane {
    uint8_t *samples;           /* of (left, top); rows `stride` bytes apart, ROW_PADDING before and after them */
    int64_t stride;
    int64_t left, top;          /* in samples of the whole component */
    int64_t width, height;      /* of the whole component; samples beyond are padding of its blocks */
};

enum picture_kind { RGB_PIXELS, GREY_PLANE, YCC_PLANES, RGB_PLANES };

struct picture {
    enum picture_kind kind;
    struct box box;             /* crop under the box */
    const uint8_t *pixels;      /* RGB_PIXELS: of the box's first pixel */
    int64_t stride;
    struct plane planes[3];
    int halved_across, halved_down;     /* chroma has one sample for two of luma */
    void *shared;               /* RGB_PLANES: memory of the planes */
    size_t shared_size;
    uint8_t *rows[5];           /* scratch memory: R, G, B, and upsampled Cb, Cr, each as wide as the box with padding */
    void *memory;
    size_t size;
};

/* Make room in picture->rows for the picture's box. Returns 0 if memory is short. */
int prepare_rows(struct picture *picture);

/* Row y of the stored image, which is in the box, as rows of R, G and B from the box's left on.
 * `rgb` points to them until the next call; gray pictures have one row for all three. */
void picture_row(struct picture *picture, const struct stages *stages, int64_t y, const uint8_t *rgb[3]);

/* Turn the picture's box into RGB once, for several crops in it. Gray pictures stay as they are.
 * Returns 0 if memory is short. */
int share_colors(struct picture *picture, const struct stages *stages);

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
