/* Decode, crop, resize and flip images into a batch: what loaders/kernel_numba.py does, to the same pixels, faster.
 *
 * A JPEG with a restart index is decoded here (native/planes.c): Huffman codes of the segments under the crop, inverse DCT,
 * upsampling and colors, each in the fastest instructions of the processor. Other JPEGs go through libjpeg-turbo, whose Huffman
 * decoder is replaced by one of ours (kernel_huffman.c, kernel_jpeg.c). native/resize.c resizes. There is no Python in here:
 * threads run side by side, each with memory of its own.
 */

#include "kernel.h"
#include "native/worker.h"

__attribute__((visibility("default")))
int harness_kernel_version(void) {
    return VERSION;
}

/* The contract stands in loaders/kernel.py; `table` is NULL where it is empty there, and a float16 is only its bits here. `shift`
 * and `scale`, [3] each, compute what the table holds (loaders/normalize.py), or are NULL. `isa`: see native/stages.h. Returns 0;
 * -1 if memory is short; -2 if this processor has no such instructions. */
__attribute__((visibility("default")))
int harness_decode_images(const uint8_t *file, const int64_t *offsets, const int64_t *sizes, const uint8_t *modes,
                          const int64_t *widths, const int64_t *heights, const struct box *boxes, const uint8_t *flips,
                          int64_t n, int64_t resolution, void *output, uint8_t *complaints, const uint16_t *table,
                          const float *shift, const float *scale, int isa) {
    struct job job = {
        .file = file, .offsets = offsets, .sizes = sizes, .modes = modes, .widths = widths, .heights = heights, .boxes = boxes,
        .flips = flips, .num_images = n, .resolution = resolution, .output = output, .complaints = complaints,
        .format = {table, shift, scale}, .stages = stages_of((enum isa)isa)};
    if (job.stages == NULL)
        return -2;
    struct worker worker = {0};
    int done = 1;
    for (int64_t i = 0; done && i < n; i++)
        done = work_on(&worker, &job, i);
    free_worker(&worker);
    return done ? 0 : -1;
}

/* Of images with a restart index, the Huffman codes under the boxes and nothing else: `harness bench load` tells by it where time
 * goes. With `counts`, adds up codes and bytes, which takes longer. Returns how many images were decoded. */
__attribute__((visibility("default")))
int64_t harness_decode_entropy(const uint8_t *file, const int64_t *offsets, const int64_t *sizes, const int64_t *widths,
                               const int64_t *heights, const struct box *boxes, int64_t n, struct counts *counts) {
    int64_t done = 0;
    struct decoder *decoder = new_decoder();
    for (int64_t i = 0; decoder != NULL && i < n && reserve_blob(decoder, sizes[i]); i++)
        done += decode_entropy(decoder, file + offsets[i], sizes[i], widths[i], heights[i], &boxes[i], counts);
    if (decoder != NULL)
        free_decoder(decoder);
    return done;
}
