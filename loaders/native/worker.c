/* Make the crops of a stored image, or planes of the whole image. Pixels that several crops share
 * are decoded once. */

#include <stdlib.h>
#include <string.h>

#include "worker.h"

int reserve_resizers(struct worker *worker, int64_t num_resizers) {
    if (num_resizers <= worker->num_resizers)
        return 1;
    struct resizer *more = realloc(worker->resizers, num_resizers * sizeof *more);
    if (more == NULL)
        return 0;
    memset(more + worker->num_resizers, 0, (num_resizers - worker->num_resizers) * sizeof *more);
    worker->resizers = more;
    worker->num_resizers = num_resizers;
    return 1;
}

int resize_crops(struct worker *worker, const struct stages *stages) {
    struct picture *picture = &worker->picture;
    const struct box *box = &picture->box;
    if (!prepare_rows(picture))
        return 0;
    for (int64_t y = box->top; y < box->top + box->height; y++) {
        const uint8_t *rgb[3];
        picture_row(picture, stages, y, rgb);
        for (int64_t i = 0; i < picture->num_crops; i++) {
            const struct box *crop = &picture->crops[i];
            const int64_t offset = crop->left - box->left;
            if (crop->top <= y && y < crop->top + crop->height)
                resize_row(&worker->resizers[i], stages, (const uint8_t *[3]){rgb[0] + offset, rgb[1] + offset, rgb[2] + offset});
        }
    }
    return 1;
}

/* Decode the part of an image that the crops need to worker->picture. `row`: see job.positions. */
static enum image_error open_picture(struct worker *worker, const struct job *job, int64_t row, const struct box *crops,
                                     int64_t num_crops) {
    const uint8_t *blob = job->file + job->offsets[row];
    int64_t size = job->sizes[row], width = job->widths[row], height = job->heights[row];
    struct picture *picture = &worker->picture;
    set_crops(picture, crops, num_crops);
    const struct box all = picture->box;
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
                     decode_planes(worker->decoder, job->stages, &worker->planes, blob, size, width, height, picture);
        if (!has_planes) {
            if (!reserve_pixels(worker->decoder, width * height))
                return OUT_OF_MEMORY;
            if (!decode_box(worker->decoder, blob, size, width, height, &all, &part))
                return DAMAGED;
            pixels = worker->decoder->pixels;
        }
    }
    if (job->modes[row] == DCT) {
        has_planes = decode_dct(job->stages, &worker->planes, blob, size, width, height, picture);
        if (!has_planes)
            return DAMAGED;
    }
    if (!has_planes) {
        picture->kind = RGB_PIXELS;
        picture->stride = 3 * part.width;
        picture->pixels = pixels + (all.top - part.top) * picture->stride + 3 * (all.left - part.left);
    }
    return NONE;
}

/* Copy a row of `width` samples, mirrored if `flip` is 1. */
static void copy_row(const uint8_t *row, int64_t width, int flip, uint8_t *target) {
    if (!flip) {
        memcpy(target, row, width);
        return;
    }
    int64_t x = 0;
    for (; x + 8 <= width; x += 8) {
        uint64_t samples;
        memcpy(&samples, row + width - 8 - x, 8);
        samples = __builtin_bswap64(samples);
        memcpy(target + x, &samples, 8);
    }
    for (; x < width; x++)
        target[x] = row[width - 1 - x];
}

/* Write a whole image to the job's output, as planes. */
static enum image_error make_whole(struct worker *worker, const struct job *job, int64_t number) {
    const int64_t row = job->positions[number];
    const int64_t width = job->widths[row], height = job->heights[row];
    const struct box all = {0, 0, width, height};
    struct picture *picture = &worker->picture;
    enum image_error error = open_picture(worker, job, row, &all, 1);
    if (error == NONE && !prepare_rows(picture))
        error = OUT_OF_MEMORY;
    uint8_t *output = (uint8_t *)job->output + job->starts[number];
    for (int64_t y = 0; error == NONE && y < height; y++) {
        const uint8_t *rgb[3];
        picture_row(picture, job->stages, y, rgb);
        for (int c = 0; c < 3; c++)
            copy_row(rgb[c], width, job->flips[number], output + (c * height + y) * width);
    }
    picture->crops = NULL;      /* crops points to `all`, which is valid only in this function */
    return error;
}

/* Write the output images of all crops of an image. */
static enum image_error make_crops(struct worker *worker, const struct job *job, int64_t number) {
    const int64_t row = job->positions[number], num_crops = job->crops_per_image;
    struct picture *picture = &worker->picture;
    enum image_error error = open_picture(worker, job, row, job->boxes + number * num_crops, num_crops);
    if (error != NONE)
        return error;
    const int64_t image_bytes = job->resolution * job->resolution * 3 * (job->format.table == NULL ? 1 : 2);
    if (!reserve_resizers(worker, num_crops))
        return OUT_OF_MEMORY;
    for (int64_t i = 0; i < num_crops; i++) {
        const struct box *crop = &picture->crops[i];
        const int64_t place = number * num_crops + i;
        if (!begin_resize(&worker->resizers[i], job->stages, crop->width, crop->height, picture->kind == GREY_PLANE ? 1 : 3,
                          job->flips[place], job->resolution, job->interpolation, &job->format,
                          (uint8_t *)job->output + place * image_bytes))
            return OUT_OF_MEMORY;
    }
    if (!resize_crops(worker, job->stages))
        return OUT_OF_MEMORY;
    return NONE;
}

void work_on(struct worker *worker, const struct job *job, int64_t number) {
    job->error_codes[number] = (job->starts != NULL ? make_whole : make_crops)(worker, job, number);
}

void free_worker(struct worker *worker) {
    if (worker->decoder != NULL)
        free_decoder(worker->decoder);
    free(worker->planes.blocks);
    free(worker->planes.samples);
    free_picture(&worker->picture);
    for (int64_t i = 0; i < worker->num_resizers; i++)
        free_resizer(&worker->resizers[i]);
    free(worker->resizers);
    *worker = (struct worker){0};
}
