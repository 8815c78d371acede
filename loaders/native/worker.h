/* State of a thread that turns stored images into output images; see worker.c. */

#ifndef HARNESS_WORKER_H
#define HARNESS_WORKER_H

#include "../kernel.h"
#include "picture.h"
#include "planes.h"
#include "resize.h"
#include "stages.h"

/* Modes, as in writers/beton/encoding.py. Images of all other modes are RGB pixels. */
enum { JPEG = 0, DCT = 2 };
enum { MAX_PIXELS = 178956970 };    /* of a JPEG or `dct` blob; as in writers/jpeg/turbojpeg.py */

enum image_error { NONE = 0, DAMAGED = 1, OUT_OF_MEMORY = 2 };      /* as in kernel_c.py */

/* Images of a `.beton` file, and the batch to make of them. */
struct job {
    const uint8_t *file;
    const int64_t *positions;   /* [num_images] row of each image in the five columns below */
    const int64_t *offsets, *sizes;     /* columns: blob of each image in `file`, in bytes */
    const uint8_t *modes;               /* column: JPEG, DCT, ... */
    const int64_t *widths, *heights;    /* columns, in pixels */
    const struct box *boxes;    /* [num_images, crops_per_image] crops */
    const uint8_t *flips;       /* [num_images, crops_per_image] 1: mirror the output image */
    int64_t num_images, crops_per_image, resolution;
    void *output;               /* [num_images, crops_per_image, resolution, resolution, 3] */
    /* [num_images] NULL to make crops. Otherwise, whole images are made: uint8 planes [3, height,
     * width] from output + starts[i] on. There are no boxes then, and flips is [num_images]. */
    const int64_t *starts;
    uint8_t *error_codes;       /* [num_images] enum image_error */
    enum interpolation interpolation;
    struct output_format format;
    const struct stages *stages;
};

/* Buffers of one thread. They are kept from image to image and grow as needed. */
struct worker {
    struct decoder *decoder;        /* NULL before the first JPEG */
    struct planes_memory planes;
    struct picture picture;
    struct resizer *resizers;       /* [num_resizers], one for each crop of an image */
    int64_t num_resizers;
};

/* Make room for `num_resizers` resizers in worker->resizers. Returns 0 if memory is short. */
int reserve_resizers(struct worker *worker, int64_t num_resizers);

/* Resize crop i of worker->picture with worker->resizers[i], for each crop. Call begin_resize for
 * each resizer first. Returns 0 if memory is short. */
int resize_crops(struct worker *worker, const struct stages *stages);

/* Make the crops of image `number` of the job, or the whole image, and set its error code. */
void work_on(struct worker *worker, const struct job *job, int64_t number);

void free_worker(struct worker *worker);

#endif
