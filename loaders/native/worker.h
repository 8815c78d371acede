/* What one thread needs to turn stored images into output images; worker.c says how. */

#ifndef HARNESS_WORKER_H
#define HARNESS_WORKER_H

#include "../kernel.h"
#include "picture.h"
#include "planes.h"
#include "resize.h"
#include "stages.h"

enum { JPEG = 0 };      /* a mode; as in writers/encoding.py */

/* Images of a beton, column by column, and what to make of them. */
struct job {
    const uint8_t *file;
    const int64_t *offsets, *sizes;
    const uint8_t *modes;
    const int64_t *widths, *heights;
    const struct box *boxes;
    const uint8_t *flips;
    int64_t num_images, resolution;
    void *output;               /* [num_images, resolution, resolution, 3] */
    uint8_t *complaints;        /* 1: the image is damaged */
    struct output_format format;
    const struct stages *stages;
};

struct worker {
    struct decoder *decoder;
    struct planes_memory planes;
    struct picture picture;
    struct resizer resizer;
};

/* Make one image of the job. Returns 0 if memory is short. */
int work_on(struct worker *worker, const struct job *job, int64_t number);

void free_worker(struct worker *worker);

#endif
