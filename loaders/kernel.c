/* Decode, crop, resize and flip images into a batch: the same pixels as loaders/kernel_numba.py,
 * but faster.
 *
 * Terms in all files of the kernel:
 *     blob      the stored bytes of an image: a JPEG, a `dct` blob (writers/dct/blob.h), or RGB
 *     segment   the entropy-coded data of a JPEG up to its next restart marker
 *     index     a table after a JPEG with the size of each segment
 *               (writers/jpeg/restart_index.py), by which segments can be decoded singly
 *     crop      a box of a stored image, in pixels, which becomes one output image
 *     part      the smallest box of whole segments that covers all crops and a margin
 *     plane     decoded samples of one color component
 *     level     a value from 0 to 255 of a pixel's color
 *
 * native/planes.c decodes JPEGs with an index: Huffman codes of the segments under the crops, and
 * the inverse DCT. native/dct_planes.c does the same for `dct` blobs. native/picture.c upsamples
 * chroma and converts colors. These loops use the fastest instruction set of the processor. Other
 * JPEGs go through libjpeg-turbo, with our Huffman decoder if possible (kernel_huffman.c,
 * kernel_jpeg.c). native/resize.c resizes. The kernel calls no Python, so its threads run in
 * parallel; each has its own buffers.
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

/* Make a batch of n images, with crops_per_image crops of each.
 *
 * Image i is row positions[i] of the columns `offsets` to `heights`. loaders/kernel.py describes the
 * other arguments; an empty `table` is NULL here, and float16 values are passed as bits.
 * `interpolation`: see native/resize.h. `shift` and `scale`, [3] each, are NULL unless they compute
 * the values of `table` (loaders/normalize.py). `isa`: see native/stages.h. Returns 0 if this
 * processor does not have the instruction set, otherwise 1. */
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

/* Decode n whole images as planes, uint8 [3, height, width] each.
 *
 * Image i begins at output[starts[i]] (bytes), and is mirrored if flips[i] is 1. The other
 * arguments and the result are those of harness_make_batch. */
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
