/* Rows of RGB from decoded planes or pixels. */

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

int prepare_rows(struct picture *picture) {
    /* Vector code makes up to 64 pixels more than requested. */
    int64_t stride = round_up(picture->box.width + 2, 64) + 2 * ROW_PADDING;
    uint8_t *memory = reserve(&picture->memory, &picture->size, 5 * stride);
    for (int i = 0; memory != NULL && i < 5; i++)
        picture->rows[i] = memory + i * stride;
    return memory != NULL;
}

static const uint8_t *sample_row(const struct plane *plane, int64_t y, int64_t x) {
    return plane->samples + (y - plane->top) * plane->stride + x - plane->left;
}

/* A row of chroma at luma's resolution, of the pixels from `left` on; upsampled to `scratch` if
 * need be. */
static const uint8_t *chroma_row(const struct picture *picture, const struct stages *stages, const struct plane *plane, int64_t y,
                                 uint8_t *scratch) {
    int64_t left = picture->box.left, width = picture->box.width;
    int64_t row = picture->halved_down ? y / 2 : y, column = picture->halved_across ? left / 2 : left;
    /* The row on the other side; beyond the first and the last one stand copies of them. */
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

void picture_row(struct picture *picture, const struct stages *stages, int64_t y, const uint8_t *rgb[3]) {
    uint8_t *const *rows = picture->rows;
    if (picture->kind == GREY_PLANE) {
        rgb[0] = rgb[1] = rgb[2] = sample_row(&picture->planes[0], y, picture->box.left);
        return;
    }
    if (picture->kind == RGB_PLANES) {
        for (int c = 0; c < 3; c++)
            rgb[c] = sample_row(&picture->planes[c], y, picture->box.left);
        return;
    }
    if (picture->kind == RGB_PIXELS) {
        stages->split_rgb(picture->pixels + (y - picture->box.top) * picture->stride, picture->box.width, rows);
    } else {
        const uint8_t *cb = chroma_row(picture, stages, &picture->planes[1], y, rows[3]);
        const uint8_t *cr = chroma_row(picture, stages, &picture->planes[2], y, rows[4]);
        stages->ycc_to_rgb(sample_row(&picture->planes[0], y, picture->box.left), cb, cr, picture->box.width, rows);
    }
    rgb[0] = rows[0], rgb[1] = rows[1], rgb[2] = rows[2];
}

int share_colors(struct picture *picture, const struct stages *stages) {
    const struct box box = picture->box;
    if (picture->kind == GREY_PLANE)
        return 1;
    int64_t stride = round_up(box.width, 64) + 2 * ROW_PADDING;     /* rows have the padding that picture_row writes to */
    uint8_t *memory = reserve(&picture->shared, &picture->shared_size, 3 * stride * box.height + ROW_PADDING);
    if (memory == NULL || !prepare_rows(picture))
        return 0;
    for (int64_t y = 0; y < box.height; y++) {
        const uint8_t *rgb[3];
        for (int c = 0; c < 3; c++)
            picture->rows[c] = memory + (c * box.height + y) * stride;
        picture_row(picture, stages, box.top + y, rgb);
    }
    for (int c = 0; c < 3; c++)
        picture->planes[c] = (struct plane){memory + c * box.height * stride, stride, box.left, box.top, box.width, box.height};
    picture->kind = RGB_PLANES;
    return 1;
}

void free_picture(struct picture *picture) {
    free(picture->memory);
    free(picture->shared);
    picture->memory = picture->shared = NULL;
    picture->size = picture->shared_size = 0;
}
