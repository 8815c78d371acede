/* Turn a stored image into its crops; the area under all of them is decoded once. */

#include <stdlib.h>

#include "worker.h"

/* The smallest box around n boxes. */
static struct box around(const struct box *boxes, int64_t n) {
    int64_t left = boxes[0].left, top = boxes[0].top, right = left + boxes[0].width, bottom = top + boxes[0].height;
    for (int64_t i = 1; i < n; i++) {
        left = min64(left, boxes[i].left);
        top = min64(top, boxes[i].top);
        right = max64(right, boxes[i].left + boxes[i].width);
        bottom = max64(bottom, boxes[i].top + boxes[i].height);
    }
    return (struct box){left, top, right - left, bottom - top};
}

static enum image_error make_image(struct worker *worker, const struct job *job, int64_t number) {
    const int64_t row = job->positions != NULL ? job->positions[number] : number, num_crops = job->crops_per_image;
    const uint8_t *blob = job->file + job->offsets[row];
    const struct box *boxes = job->boxes + number * num_crops, all = around(boxes, num_crops);
    int64_t size = job->sizes[row], width = job->widths[row], height = job->heights[row];
    enum image_error complaint = NONE;
    struct picture *picture = &worker->picture;
    struct box part = {0, 0, width, height};
    const uint8_t *pixels = blob;
    int has_planes = 0;

    if ((job->modes[row] == JPEG || job->modes[row] == DCT) && width * height > MAX_PIXELS)
        return DAMAGED;
    if (job->modes[row] == JPEG) {
        if (worker->decoder == NULL && (worker->decoder = new_decoder()) == NULL)
            return OUT_OF_MEMORY;
        if (!reserve_blob(worker->decoder, size))
            return OUT_OF_MEMORY;
        has_planes = !job->stages->leaves_jpeg &&
                     decode_planes(worker->decoder, job->stages, &worker->planes, blob, size, width, height, &all, picture);
        if (!has_planes) {
            if (!reserve_pixels(worker->decoder, width * height))
                return OUT_OF_MEMORY;
            if (!decode_box(worker->decoder, blob, size, width, height, &all, &part))
                complaint = DAMAGED;
            pixels = worker->decoder->pixels;
        }
    }
    if (job->modes[row] == DCT) {
        has_planes = decode_dct(job->stages, &worker->planes, blob, size, width, height, &all, picture);
        if (!has_planes)
            return DAMAGED;
    }
    if (!has_planes) {
        picture->kind = RGB_PIXELS;
        picture->box = all;
        picture->stride = 3 * part.width;
        picture->pixels = pixels + (all.top - part.top) * picture->stride + 3 * (all.left - part.left);
    }
    if (num_crops > 1 && !share_colors(picture, job->stages))
        return OUT_OF_MEMORY;
    int64_t image_bytes = job->resolution * job->resolution * 3 * (job->format.table == NULL ? 1 : 2);
    for (int64_t i = 0; i < num_crops; i++) {
        picture->box = boxes[i];
        int64_t place = number * num_crops + i;
        if (!resize_picture(&worker->resizer, job->stages, picture, job->flips[place], job->resolution, job->interpolation, &job->format,
                            (uint8_t *)job->output + place * image_bytes))
            return OUT_OF_MEMORY;
    }
    return complaint;
}

void work_on(struct worker *worker, const struct job *job, int64_t number) {
    job->error_codes[number] = make_image(worker, job, number);
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
