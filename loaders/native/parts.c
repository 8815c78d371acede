/* Measure the CPU time of each part of the kernel, for `harness bench load --parts`. Here, each
 * part processes a whole crop before the next part begins; the kernel alternates COLOR and RESIZE
 * for each row. */

#include <time.h>

#include "worker.h"

enum part { ENTROPY, TRANSFORM, COLOR, RESIZE, NUM_PARTS };     /* as in kernel_c.py */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Make image i, and add the seconds of its parts to `seconds`. Returns 0 if memory is short, the
 * image is damaged, or native/planes.c cannot decode it (a JPEG without index, for example). */
static int time_image(struct worker *worker, const struct job *job, int64_t i, double seconds[NUM_PARTS]) {
    const uint8_t *blob = job->file + job->offsets[i];
    const struct box *box = &job->boxes[i];
    const int64_t size = job->sizes[i], width = job->widths[i], height = job->heights[i];
    struct picture *picture = &worker->picture;
    double begin = now(), entropy = begin;
    set_crops(picture, box, 1);
    if (job->modes[i] == JPEG) {
        struct coefficients coefficients[3];
        struct box part;
        if (!reserve_blob(worker->decoder, size) ||
            !decode_coefficients(worker->decoder, job->stages, &worker->planes, blob, size, width, height, picture, coefficients, &part))
            return 0;
        entropy = now();
        transform_planes(worker->decoder, job->stages, coefficients, &part, width, height, picture);
    } else if (job->modes[i] == DCT) {
        if (!decode_dct(job->stages, &worker->planes, blob, size, width, height, picture))
            return 0;
    } else {
        picture->kind = RGB_PIXELS;
        picture->stride = 3 * width;
        picture->pixels = blob + box->top * picture->stride + 3 * box->left;
    }
    double planes = now();
    if (!prepare_rows(picture) || !reserve_resizers(worker, 1))
        return 0;
    for (int64_t y = box->top; y < box->top + box->height; y++) {
        const uint8_t *rgb[3];
        picture_row(picture, job->stages, y, rgb);
    }
    double colors = now();
    /* The resize converts the colors of each row again; their time is subtracted below. */
    if (!begin_resize(&worker->resizers[0], job->stages, box->width, box->height, picture->kind == GREY_PLANE ? 1 : 3,
                      job->flips[i], job->resolution, job->interpolation, &job->format,
                      (uint8_t *)job->output + i * job->resolution * job->resolution * 3) ||
        !resize_crops(worker, job->stages))
        return 0;
    seconds[ENTROPY] += entropy - begin;
    seconds[TRANSFORM] += planes - entropy;
    seconds[COLOR] += colors - planes;
    seconds[RESIZE] += now() - colors - (colors - planes);
    return 1;
}

/* Make n uint8 images, one crop of each, and add the seconds of each part to `seconds`. The other
 * arguments are those of harness_make_batch. Returns the number of images made before the first
 * failure. */
__attribute__((visibility("default")))
int64_t harness_time_parts(const uint8_t *file, const int64_t *offsets, const int64_t *sizes, const uint8_t *modes,
                           const int64_t *widths, const int64_t *heights, const struct box *boxes, const uint8_t *flips, int64_t n,
                           int64_t resolution, void *output, int isa, double seconds[NUM_PARTS]) {
    const struct job job = {
        .file = file, .offsets = offsets, .sizes = sizes, .modes = modes, .widths = widths, .heights = heights, .boxes = boxes,
        .flips = flips, .num_images = n, .crops_per_image = 1, .resolution = resolution, .interpolation = AREA, .output = output,
        .stages = stages_of((enum isa)isa)};
    struct worker worker = {.decoder = new_decoder()};
    int64_t done = 0;
    while (worker.decoder != NULL && job.stages != NULL && done < n && time_image(&worker, &job, done, seconds))
        done++;
    free_worker(&worker);
    return done;
}
