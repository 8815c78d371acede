/* Convert decoded planes or pixels to rows of R, G and B. */

#include <stdlib.h>
#include <string.h>

#include "picture.h"

uint8_t *reserve(void **memory, size_t *reserved, size_t size) {
    size = (size + 2 * ROW_PADDING + 63) / 64 * 64;
    if (*reserved < size) {
        free(*memory);
        *reserved = 0;
        size += size / 4;       /* sizes vary from image to image */
        size = (size + 63) / 64 * 64;
        if ((*memory = aligned_alloc(64, size)) == NULL)
            return NULL;
        memset(*memory, 0, size);
        *reserved = size;
    }
    return (uint8_t *)*memory + ROW_PADDING;
}

void set_crops(struct picture *picture, const struct box *crops, int64_t num_crops) {
    int64_t left = crops[0].left, top = crops[0].top, right = left + crops[0].width, bottom = top + crops[0].height;
    for (int64_t i = 1; i < num_crops; i++) {
        left = min64(left, crops[i].left);
        top = min64(top, crops[i].top);
        right = max64(right, crops[i].left + crops[i].width);
        bottom = max64(bottom, crops[i].top + crops[i].height);
    }
    picture->crops = crops;
    picture->num_crops = num_crops;
    picture->box = (struct box){left, top, right - left, bottom - top};
}

struct span columns_of(const struct box *crops, int64_t num_crops, int64_t first_row, int64_t last_row) {
    struct span columns = {INT32_MAX, -1};
    for (int64_t i = 0; i < num_crops; i++) {
        const struct box *crop = &crops[i];
        if (crop->top <= last_row && first_row < crop->top + crop->height) {
            columns.first = min64(columns.first, crop->left);
            columns.last = max64(columns.last, crop->left + crop->width - 1);
        }
    }
    return columns;
}

int prepare_rows(struct picture *picture) {
    /* Upsampling begins and ends at whole chroma samples: up to 2 pixels more. It writes up to 128
     * samples at a time, and so up to ROW_PADDING beyond the multiple of 64. */
    int64_t stride = round_up(picture->box.width + 2, 64) + 2 * ROW_PADDING;
    uint8_t *memory = reserve(&picture->memory, &picture->size, 5 * stride);
    for (int i = 0; memory != NULL && i < 5; i++)
        picture->rows[i] = memory + i * stride;
    return memory != NULL;
}

/* Return the address of sample (x, y) of the component. */
static const uint8_t *sample_row(const struct plane *plane, int64_t y, int64_t x) {
    return plane->samples + (y - plane->top) * plane->stride + x - plane->left;
}

/* Return a row of chroma at luma's resolution: `width` samples from pixel (left, y) on. If chroma
 * is halved, it is upsampled to `scratch`. */
static const uint8_t *chroma_row(const struct picture *picture, const struct stages *stages, const struct plane *plane, int64_t y,
                                 int64_t left, int64_t width, uint8_t *scratch) {
    int64_t row = picture->halved_down ? y / 2 : y, column = picture->halved_across ? left / 2 : left;
    /* The second nearest row. At the image's border, the nearest row takes its place. */
    int64_t other = picture->halved_down ? max64(0, min64(y % 2 ? row + 1 : row - 1, plane->height - 1)) : row;
    const uint8_t *near = sample_row(plane, row, column), *far = sample_row(plane, other, column);
    if (!picture->halved_across) {
        if (!picture->halved_down)
            return near;
        stages->upsample_h1v2(near, far, y % 2 ? 2 : 1, width, scratch);
        return scratch;
    }
    int64_t count = (left + width + 1) / 2 - column;
    if (picture->halved_down)
        stages->upsample_h2v2(near, far, count, scratch);
    else
        stages->upsample_h2v1(near, count, scratch);
    return scratch + left % 2;
}

void picture_row(const struct picture *picture, const struct stages *stages, int64_t y, const uint8_t *rgb[3]) {
    const struct box *box = &picture->box;
    if (picture->kind == GREY_PLANE) {
        rgb[0] = rgb[1] = rgb[2] = sample_row(&picture->planes[0], y, box->left);
        return;
    }
    for (int c = 0; c < 3; c++)
        rgb[c] = picture->rows[c];
    const struct span columns = columns_of(picture->crops, picture->num_crops, y, y);
    const int64_t left = columns.first, width = columns.last - left + 1, offset = left - box->left;
    if (width <= 0)
        return;
    uint8_t *const rows[3] = {picture->rows[0] + offset, picture->rows[1] + offset, picture->rows[2] + offset};
    if (picture->kind == RGB_PIXELS) {
        stages->split_rgb(picture->pixels + (y - box->top) * picture->stride + 3 * offset, width, rows);
        return;
    }
    const uint8_t *cb = chroma_row(picture, stages, &picture->planes[1], y, left, width, picture->rows[3]);
    const uint8_t *cr = chroma_row(picture, stages, &picture->planes[2], y, left, width, picture->rows[4]);
    stages->ycc_to_rgb(sample_row(&picture->planes[0], y, left), cb, cr, width, rows);
}

void free_picture(struct picture *picture) {
    free(picture->memory);
    picture->memory = NULL;
    picture->size = 0;
}
