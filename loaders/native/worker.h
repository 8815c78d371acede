/* State of a thread that turns stored images into output images; see worker.c. */

#ifndef HARNESS_WORKER_H
#define HARNESS_WORKER_H

#include "../kernel.h"
#include "picture.h"
#include "planes.h"
#include "resize.h"
#include "stages.h"

enum { JPEG = 0, DCT = 2 };      /* modes; as in writers/beton/encoding.py */
enum { MAX_PIXELS = 178956970 };    /* of a compressed image; as in writers/jpeg/turbojpeg.py */

enum image_error { NONE = 0, DAMAGED = 1, OUT_OF_MEMORY = 2 };      /* as in kernel_c.py */

/* Images of a beton, and the batch to make of them. */
struct job {
    const uint8_t *file;
    const int64_t *positions;   /* [num_images] of each image in the columns of the file's; NULL: 0, 1, 2, ... */
    const int64_t *offsets, *sizes;
    const uint8_t *modes;
    const int64_t *widths, *heights;
    const struct box *boxes;    /* [num_images, crops_per_image] */
    const uint8_t *flips;       /* likewise */
    int64_t num_images, crops_per_image, resolution;
    void *output;               /* [num_images, crops_per_image, resolution, resolution, 3] */
    const int64_t *starts;      /* [num_images] whole images: place of each in output, as planes uint8 [3, height, width];
                                 * then there are no boxes, and a flip per image. NULL: crops */
    uint8_t *error_codes;        /* [num_images] enum image_error */
    enum interpolation interpolation;
    struct output_format format;
    const struct stages *stages;
};

struct worker {
    struct decoder *decoder;
    struct planes_memory planes;
    struct picture picture;
    struct resizer *resizers;       /* [num_resizers], one for each crop of an image */
    int64_t num_resizers;
};

/* Make room for `num_resizers` resizers in worker->resizers. Returns 0 if memory is short. */
int reserve_resizers(struct worker *worker, int64_t num_resizers);

/* Resize the crops of worker->picture, each with its resizer, after begin_resize. Returns 0 if memory
 * is short. */
int resize_crops(struct worker *worker, const struct stages *stages);

/* Make the crops of one image of the job, or all of it, and set its error code. */
void work_on(struct worker *worker, const struct job *job, int64_t number);

void free_worker(struct worker *worker);

#endif
