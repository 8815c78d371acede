/* Decode, crop, resize and flip images into a batch: the same pixels as loaders/kernel_numba.py,
 * faster.
 *
 * A JPEG with a restart index is decoded here (native/planes.c): Huffman codes of the segments
 * under the crop, inverse DCT, upsampling and colors, each in the fastest instructions of the
 * processor. Other JPEGs go through libjpeg-turbo, whose Huffman decoder is replaced
 * (kernel_huffman.c, kernel_jpeg.c). native/resize.c resizes. No Python is called: threads run in
 * parallel, each with its own memory.
 */

#include "kernel.h"
#include "native/pool.h"

__attribute__((visibility("default")))
int harness_kernel_version(void) {
    return VERSION;
}

__attribute__((visibility("default")))
struct pool *harness_new_pool(int num_threads) {
    return new_pool(num_threads);
}

__attribute__((visibility("default")))
void harness_free_pool(struct pool *pool) {
    free_pool(pool);
}

/* Make a batch of n images, each with crops_per_image boxes: those at `positions` of the file's
 * columns `offsets` to `heights`; positions may be NULL. loaders/kernel.py defines the contract;
 * an empty `table` is NULL here, and float16 values are bits. `interpolation`: see
 * native/resize.h. `shift` and `scale`, [3] each, compute what the table holds
 * (loaders/normalize.py), or are NULL. `isa`: see native/stages.h. Returns 0 if this processor has
 * no such instructions. */
__attribute__((visibility("default")))
int harness_make_batch(struct pool *pool, const uint8_t *file, const int64_t *positions, const int64_t *offsets,
                       const int64_t *sizes, const uint8_t *modes, const int64_t *widths, const int64_t *heights,
                       const struct box *boxes, const uint8_t *flips, int64_t n, int64_t crops_per_image, int64_t resolution,
                       int interpolation, void *output,
                       uint8_t *error_codes, const uint16_t *table, const float *shift, const float *scale, int isa) {
    const struct job job = {
        .file = file, .positions = positions, .offsets = offsets, .sizes = sizes, .modes = modes, .widths = widths,
        .heights = heights, .boxes = boxes, .flips = flips, .num_images = n, .crops_per_image = crops_per_image, .resolution = resolution,
        .interpolation = (enum interpolation)interpolation, .output = output,
        .error_codes = error_codes, .format = {table, shift, scale}, .stages = stages_of((enum isa)isa)};
    if (job.stages == NULL)
        return 0;
    run_job(pool, &job);
    return 1;
}

/* Decode n whole images as planes, uint8 [3, height, width] each, from `starts` [n] on in `output`,
 * mirrored if its flip is 1. The other arguments are those of harness_make_batch. Returns 0 if this
 * processor has no such instructions. */
__attribute__((visibility("default")))
int harness_decode_whole(struct pool *pool, const uint8_t *file, const int64_t *positions, const int64_t *offsets,
                         const int64_t *sizes, const uint8_t *modes, const int64_t *widths, const int64_t *heights,
                         const uint8_t *flips, int64_t n, const int64_t *starts, uint8_t *output, uint8_t *error_codes, int isa) {
    const struct job job = {
        .file = file, .positions = positions, .offsets = offsets, .sizes = sizes, .modes = modes, .widths = widths,
        .heights = heights, .flips = flips, .num_images = n, .starts = starts, .output = output, .error_codes = error_codes,
        .stages = stages_of((enum isa)isa)};
    if (job.stages == NULL)
        return 0;
    run_job(pool, &job);
    return 1;
}
