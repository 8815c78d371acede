/* Decode the planes of a `dct` blob under its crops: unpack coefficients, inverse DCT.
 * writers/dct/blob.h defines the blob's layout; planes have the layout of planes.c. */

#include <string.h>

#include "../../writers/dct/blob.h"
#include "idct.h"
#include "planes.h"

int decode_dct(const struct stages *stages, struct planes_memory *memory, const uint8_t *blob, int64_t size, int64_t width,
               int64_t height, struct picture *picture) {
    struct dct_image image;
    if (!open_dct(&image, blob, size) || image.width != width || image.height != height)
        return 0;
    picture->kind = image.num_components == 1 ? GREY_PLANE : YCC_PLANES;
    picture->halved_across = image.halved_across;
    picture->halved_down = image.halved_down;

    const struct box *box = &picture->box;
    struct span columns[3], rows[3];
    int64_t most_blocks = 0, used = 0;
    for (int c = 0; c < image.num_components; c++) {
        const struct dct_component *component = &image.components[c];
        struct plane *plane = &picture->planes[c];
        columns[c] = span_of(box->left, box->left + box->width - 1, c > 0 && image.halved_across, component->width);
        rows[c] = span_of(box->top, box->top + box->height - 1, c > 0 && image.halved_down, component->height);
        int64_t first = columns[c].first / 8, count = columns[c].last / 8 - first + 1, top = rows[c].first / 8;
        *plane = (struct plane){NULL, round_up(8 * count, 64) + 2 * ROW_PADDING, 8 * first, 8 * top, component->width,
                                component->height};
        most_blocks = max64(most_blocks, count);
        used += plane->stride * 8 * (rows[c].last / 8 - top + 1);
    }
    int16_t *scratch = (int16_t *)reserve(&memory->blocks, &memory->blocks_size, most_blocks * 64 * sizeof(int16_t));
    uint8_t *samples = reserve(&memory->samples, &memory->samples_size, used);
    if (scratch == NULL || samples == NULL)
        return 0;
    for (int c = 0; c < image.num_components; c++) {
        struct plane *plane = &picture->planes[c];
        int64_t left = plane->left / 8, top = plane->top / 8;
        plane->samples = samples;
        for (int64_t y = top; y <= rows[c].last / 8; y++, samples += 8 * plane->stride) {
            struct span blocks = blocks_of(picture, c, y);
            if (blocks.first <= blocks.last &&
                !stages->read_dct_row(&image, c, y, blocks.first, blocks.last - blocks.first + 1, scratch,
                                      samples + 8 * (blocks.first - left), plane->stride))
                return 0;
        }
        if (c > 0 && image.halved_across)
            repeat_borders(plane, 8 * (rows[c].last / 8 - top + 1), columns[c]);
    }
    return 1;
}

int read_dct_row_scalar(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *scratch,
                        uint8_t *samples, int64_t stride) {
    if (!read_dct_blocks(image, component, row, first, count, scratch))
        return 0;
    inverse_dct_scalar(scratch, count, image->components[component].table, samples, stride);
    return 1;
}
