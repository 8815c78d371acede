/* One stored image to one output image. */

#include <stdlib.h>

#include "worker.h"

static enum complaint make_image(struct worker *worker, const struct job *job, int64_t number) {
    const int64_t row = job->positions != NULL ? job->positions[number] : number;
    const uint8_t *blob = job->file + job->offsets[row];
    const struct box *box = &job->boxes[number];
    int64_t size = job->sizes[row], width = job->widths[row], height = job->heights[row];
    enum complaint complaint = NONE;
    struct picture *picture = &worker->picture;
    struct box part = {0, 0, width, height};
    const uint8_t *pixels = blob;
    int has_planes = 0;

    if (job->modes[row] == JPEG) {
        if (worker->decoder == NULL && (worker->decoder = new_decoder()) == NULL)
            return SHORT_OF_MEMORY;
        if (!reserve_blob(worker->decoder, size))
            return SHORT_OF_MEMORY;
        has_planes = decode_planes(worker->decoder, job->stages, &worker->planes, blob, size, width, height, box, picture);
        if (!has_planes) {
            if (!reserve_pixels(worker->decoder, width * height))
                return SHORT_OF_MEMORY;
            if (!decode_box(worker->decoder, blob, size, width, height, box, &part))
                complaint = DAMAGED;
            pixels = worker->decoder->pixels;
        }
    }
    if (job->modes[row] == DCT) {
        has_planes = decode_dct(job->stages, &worker->planes, blob, size, width, height, box, picture);
        if (!has_planes)
            return DAMAGED;
    }
    if (!has_planes) {
        picture->kind = RGB_PIXELS;
        picture->box = *box;
        picture->stride = 3 * part.width;
        picture->pixels = pixels + (box->top - part.top) * picture->stride + 3 * (box->left - part.left);
    }
    int64_t image_bytes = job->resolution * job->resolution * 3 * (job->format.table == NULL ? 1 : 2);
    int is_made = resize_picture(&worker->resizer, job->stages, picture, job->flips[number], job->resolution, &job->format,
                                 (uint8_t *)job->output + number * image_bytes);
    return is_made ? complaint : SHORT_OF_MEMORY;
}

void work_on(struct worker *worker, const struct job *job, int64_t number) {
    job->complaints[number] = make_image(worker, job, number);
}

void free_worker(struct worker *worker) {
    if (worker->decoder != NULL)
        free_decoder(worker->decoder);
    free(worker->planes.blocks);
    free(worker->planes.samples);
    free_picture(&worker->picture);
    free_resizer(&worker->resizer);
    *worker = (struct worker){0};
}
