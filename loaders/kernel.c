/* Decode, crop, resize and flip images into a batch: what loaders/kernel_numba.py does, to the same pixels, faster.
 *
 * libjpeg-turbo does the inverse transform, the upsampling and the colours. Its Huffman decoder, which takes most of the time,
 * is replaced by one of ours (kernel_huffman.c) for ordinary images. kernel_jpeg.c finds the part of a JPEG that is needed,
 * kernel_resize.c resizes it. No Python in here: threads run side by side, each call with memory of its own.
 */

#include "kernel.h"

enum { JPEG = 0 };      /* a mode; as in writers/beton/encode.py */

__attribute__((visibility("default")))
int harness_kernel_version(void) {
    return VERSION;
}

/* The contract stands in loaders/kernel.py; `table` is NULL where it is empty there, and a float16 is only its bits here.
 * Returns -1 where there is no memory for it, else 0. */
__attribute__((visibility("default")))
int harness_decode_images(const uint8_t *file, const int64_t *offsets, const int64_t *sizes, const uint8_t *modes,
                          const int64_t *widths, const int64_t *heights, const struct box *boxes, const uint8_t *flips,
                          int64_t n, int64_t resolution, void *output, uint8_t *complaints, const uint16_t *table) {
    int64_t num_pixels = 0, size = 0, box_width = 0, box_height = 0;
    for (int64_t i = 0; i < n; i++) {
        num_pixels = widths[i] * heights[i] > num_pixels ? widths[i] * heights[i] : num_pixels;
        size = sizes[i] > size ? sizes[i] : size;
        box_width = boxes[i].width > box_width ? boxes[i].width : box_width;
        box_height = boxes[i].height > box_height ? boxes[i].height : box_height;
    }
    struct decoder *decoder = new_decoder(num_pixels, size);
    struct resizer resizer = {0};
    int ready = decoder != NULL && make_resizer(&resizer, box_width, box_height, resolution);
    int64_t image_bytes = resolution * resolution * 3 * (table == NULL ? 1 : 2);
    for (int64_t i = 0; ready && i < n; i++) {
        const uint8_t *blob = file + offsets[i];
        const struct box *box = &boxes[i];
        const uint8_t *pixels = blob;
        struct box part = {0, 0, widths[i], heights[i]};
        complaints[i] = 0;
        if (modes[i] == JPEG) {
            complaints[i] = !decode_box(decoder, blob, sizes[i], widths[i], heights[i], box, &part);
            pixels = decoder->pixels;
        }
        int64_t stride = part.width * 3;
        resize(&resizer, pixels + (box->top - part.top) * stride + (box->left - part.left) * 3, stride, box->width, box->height,
               flips[i], resolution, table, (uint8_t *)output + i * image_bytes);
    }
    if (decoder != NULL)
        free_decoder(decoder);
    free_resizer(&resizer);
    return ready ? 0 : -1;
}

/* Of images with a restart index, the Huffman codes under the boxes and nothing else: `harness bench load` tells by it where time
 * goes. With `counts`, adds up codes and bytes, which takes longer. Returns how many images were decoded. */
__attribute__((visibility("default")))
int64_t harness_decode_entropy(const uint8_t *file, const int64_t *offsets, const int64_t *sizes, const int64_t *widths,
                               const int64_t *heights, const struct box *boxes, int64_t n, struct counts *counts) {
    int64_t size = 0, done = 0;
    for (int64_t i = 0; i < n; i++)
        size = sizes[i] > size ? sizes[i] : size;
    struct decoder *decoder = new_decoder(1, size);
    for (int64_t i = 0; decoder != NULL && i < n; i++)
        done += decode_entropy(decoder, file + offsets[i], sizes[i], widths[i], heights[i], &boxes[i], counts);
    if (decoder != NULL)
        free_decoder(decoder);
    return done;
}
