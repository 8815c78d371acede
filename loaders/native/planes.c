/* Decode the planes of an indexed JPEG under its crops: header, Huffman codes, inverse DCT.
 *
 * libjpeg reads only the header. This file decodes gray images, and YCbCr with sampling 4:4:4,
 * 4:2:2, 4:4:0 or 4:2:0. The callers use libjpeg for other, narrow and damaged images.
 */

#include <string.h>

#include "huffman.h"
#include "idct.h"
#include "lanes.h"
#include "planes.h"

/* In pixels. libjpeg does not interpolate the chroma of images that are at most 4 pixels wide. */
enum { MIN_WIDTH = 8 };

/* Returns 1 if the image can be decoded here. */
static int is_ordinary(const struct jpeg_decompress_struct *codec, const struct entropy *entropy, int64_t width) {
    if (codec->progressive_mode || codec->arith_code || codec->data_precision != 8 || width < MIN_WIDTH ||
        codec->comps_in_scan != codec->num_components || codec->restart_interval != entropy->interval ||
        codec->Ss != 0 || codec->Se != DCTSIZE2 - 1 || codec->Ah != 0 || codec->Al != 0)
        return 0;
    for (int c = 0; c < codec->num_components; c++) {
        const jpeg_component_info *component = &codec->comp_info[c];    /* libjpeg has not checked these numbers yet */
        if (codec->cur_comp_info[c] != component || component->quant_tbl_no < 0 || component->quant_tbl_no >= NUM_QUANT_TBLS ||
            codec->quant_tbl_ptrs[component->quant_tbl_no] == NULL || component->dc_tbl_no < 0 ||
            component->dc_tbl_no >= NUM_HUFF_TBLS || component->ac_tbl_no < 0 || component->ac_tbl_no >= NUM_HUFF_TBLS)
            return 0;
    }
    if (codec->num_components == 1)
        return codec->jpeg_color_space == JCS_GRAYSCALE;
    if (codec->num_components != 3 || codec->jpeg_color_space != JCS_YCbCr)
        return 0;
    const jpeg_component_info *parts = codec->comp_info;
    for (int c = 1; c < 3; c++)
        if (parts[c].h_samp_factor != 1 || parts[c].v_samp_factor != 1)
            return 0;
    return parts[0].h_samp_factor <= 2 && parts[0].v_samp_factor <= 2;
}

struct span span_of(int64_t first, int64_t last, int is_halved, int64_t size) {
    if (!is_halved)
        return (struct span){first, last};
    return (struct span){max64(first / 2 - 1, 0), min64(last / 2 + 1, size - 1)};
}

struct span blocks_of(const struct picture *picture, int component, int64_t y) {
    int across = component > 0 && picture->halved_across, down = component > 0 && picture->halved_down;
    /* Pixels are counted here: `size` rows in a row of blocks, and `more` in the sample that
     * span_of adds on both sides. */
    int64_t size = down ? 16 : 8, more = down ? 2 : 0;
    struct span columns = columns_of(picture->crops, picture->num_crops, size * y - more, size * (y + 1) - 1 + more);
    columns = span_of(columns.first, columns.last, across, picture->planes[component].width);
    return (struct span){columns.first / 8, columns.last / 8};
}

void repeat_borders(const struct plane *plane, int64_t num_rows, struct span columns) {
    for (int64_t y = 0; y < num_rows; y++) {
        uint8_t *row = plane->samples + y * plane->stride;
        if (columns.first == 0)
            row[-1] = row[0];
        if (columns.last == plane->width - 1)
            row[plane->width - plane->left] = row[plane->width - 1 - plane->left];
    }
}

/* Compute the samples of one plane from the blocks that the picture's crops need.
 *
 * The plane begins at the first block under the picture's box. Blocks of the box are blocks of the
 * part, since the part contains the box and MARGIN pixels around it, or reaches the image's
 * border. */
static void transform_plane(const struct stages *stages, const struct picture *picture, const struct box *part, int component,
                            const struct coefficients *coefficients, const JQUANT_TBL *quant, struct plane *plane) {
    const struct box *box = &picture->box;
    int across = component > 0 && picture->halved_across, down = component > 0 && picture->halved_down;
    struct span columns = span_of(box->left, box->left + box->width - 1, across, plane->width);
    struct span rows = span_of(box->top, box->top + box->height - 1, down, plane->height);
    int64_t part_left = part->left / (across ? 16 : 8), part_top = part->top / (down ? 16 : 8);     /* in blocks */
    int64_t left = columns.first / 8, top = rows.first / 8, bottom = rows.last / 8;
    int16_t table[DCTSIZE2];
    for (int k = 0; k < DCTSIZE2; k++)
        table[k] = (int16_t)quant->quantval[k];
    plane->left = 8 * left, plane->top = 8 * top;
    for (int64_t y = top; y <= bottom; y++) {
        struct span blocks = blocks_of(picture, component, y);
        if (blocks.first <= blocks.last)
            stages->inverse_dct(
                coefficients->blocks + ((y - part_top) * coefficients->per_row + blocks.first - part_left) * DCTSIZE2,
                blocks.last - blocks.first + 1, table,
                plane->samples + 8 * (y - top) * plane->stride + 8 * (blocks.first - left), plane->stride);
    }
    if (across)
        repeat_borders(plane, 8 * (bottom - top + 1), columns);
}

/* Make room for coefficients and planes of the part, and set their addresses and strides.
 *
 * A row of samples has room for the row's blocks, rounded up to 64 bytes, and ROW_PADDING before
 * and after. The inverse DCT writes two blocks at a time, and so up to 8 bytes after the last
 * block. Returns 0 if memory is short. */
static int make_room(struct planes_memory *memory, struct picture *picture, const struct box *part,
                     struct coefficients coefficients[3], int num_components) {
    size_t num_blocks = 0, num_samples = 0;
    for (int c = 0; c < num_components; c++) {
        int64_t across = c == 0 && picture->halved_across ? 2 : 1, down = c == 0 && picture->halved_down ? 2 : 1;
        int64_t mcu_width = 8 * (picture->halved_across + 1), mcu_height = 8 * (picture->halved_down + 1);
        int64_t mcus = (part->width + mcu_width - 1) / mcu_width, mcu_rows = (part->height + mcu_height - 1) / mcu_height;
        coefficients[c].per_row = mcus * across;
        coefficients[c].num_rows = mcu_rows * down;
        picture->planes[c].stride = round_up(8 * coefficients[c].per_row, 64) + 2 * ROW_PADDING;
        num_blocks += coefficients[c].per_row * coefficients[c].num_rows;
        num_samples += picture->planes[c].stride * 8 * coefficients[c].num_rows;
    }
    uint8_t *blocks = reserve(&memory->blocks, &memory->blocks_size, num_blocks * sizeof(JBLOCK));
    uint8_t *samples = reserve(&memory->samples, &memory->samples_size, num_samples);
    if (blocks == NULL || samples == NULL)
        return 0;
    for (int c = 0; c < num_components; c++) {
        coefficients[c].blocks = (JCOEF *)blocks;
        picture->planes[c].samples = samples;
        blocks += coefficients[c].per_row * coefficients[c].num_rows * sizeof(JBLOCK);
        samples += picture->planes[c].stride * 8 * coefficients[c].num_rows;
    }
    return 1;
}

/* Set up the decoding of all segments. Returns 0 if the index does not match the image's MCUs. */
static int set_up_lanes(struct lanes *lanes, struct decoder *decoder, const struct box *part,
                         const struct coefficients coefficients[3], const struct picture *picture) {
    const struct jpeg_decompress_struct *codec = &decoder->codec;
    struct entropy *entropy = &decoder->entropy;
    int64_t mcu_width = 8 * (picture->halved_across + 1), mcu_height = 8 * (picture->halved_down + 1);
    int64_t mcus_per_row = (part->width + mcu_width - 1) / mcu_width, num_rows = (part->height + mcu_height - 1) / mcu_height;
    /* In a damaged image, the frame header that the index points to may differ from the one that
     * libjpeg reads. */
    if (part->left % mcu_width != 0 || part->top % mcu_height != 0 || mcus_per_row % entropy->interval != 0 ||
        entropy->num_segments * entropy->interval != mcus_per_row * num_rows)
        return 0;
    *lanes = (struct lanes){.entropy = entropy, .segments_per_row = mcus_per_row / entropy->interval};
    lanes->clean[0] = entropy->clean;
    for (int i = 1; i < NUM_LANES; i++)
        lanes->clean[i] = decoder->more_clean[i - 1];
    for (int c = 0; c < codec->num_components; c++) {
        const jpeg_component_info *component = &codec->comp_info[c];
        int across = codec->num_components == 1 ? 1 : component->h_samp_factor;
        int down = codec->num_components == 1 ? 1 : component->v_samp_factor;
        for (int b = 0; b < across * down; b++)
            lanes->mcu[lanes->blocks_in_mcu++] = (struct mcu_block){
                .component = c, .across = across, .down = down, .x = b % across, .y = b / across,
                .dc = &entropy->dc[component->dc_tbl_no], .ac = &entropy->ac[component->ac_tbl_no],
                .coefficients = coefficients[c].blocks, .blocks_per_row = coefficients[c].per_row};
    }
    return 1;
}

/* As decode_coefficients, but errors end in a longjmp. Returns 0 if there is no index. */
static int read_coefficients(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                             int64_t size, int64_t width, int64_t height, struct picture *picture, struct coefficients coefficients[3],
                             struct box *part) {
    j_decompress_ptr codec = &decoder->codec;
    if (!open_indexed(decoder, blob, size, width, height, picture->crops, picture->num_crops, &picture->box, part))
        return 0;
    if (decoder->errors.base.num_warnings != 0 || !is_ordinary(codec, &decoder->entropy, width) ||
        !make_tables(codec, &decoder->entropy))
        longjmp(decoder->errors.back, 1);
    picture->kind = codec->num_components == 1 ? GREY_PLANE : YCC_PLANES;
    picture->halved_across = codec->num_components == 3 && codec->comp_info[0].h_samp_factor == 2;
    picture->halved_down = codec->num_components == 3 && codec->comp_info[0].v_samp_factor == 2;
    struct lanes lanes;
    if (!make_room(memory, picture, part, coefficients, codec->num_components) ||
        !set_up_lanes(&lanes, decoder, part, coefficients, picture))
        longjmp(decoder->errors.back, 1);
    stages->decode_lanes(&lanes);
    return 1;
}

int decode_coefficients(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                        int64_t size, int64_t width, int64_t height, struct picture *picture, struct coefficients coefficients[3],
                        struct box *part) {
    if (setjmp(decoder->errors.back) != 0) {
        jpeg_abort_decompress(&decoder->codec);
        return 0;
    }
    return read_coefficients(decoder, stages, memory, blob, size, width, height, picture, coefficients, part);
}

void transform_planes(struct decoder *decoder, const struct stages *stages, const struct coefficients coefficients[3],
                      const struct box *part, int64_t width, int64_t height, struct picture *picture) {
    j_decompress_ptr codec = &decoder->codec;
    for (int c = 0; c < codec->num_components; c++) {
        struct plane *plane = &picture->planes[c];
        plane->width = c > 0 && picture->halved_across ? (width + 1) / 2 : width;
        plane->height = c > 0 && picture->halved_down ? (height + 1) / 2 : height;
        transform_plane(stages, picture, part, c, &coefficients[c], codec->quant_tbl_ptrs[codec->comp_info[c].quant_tbl_no], plane);
    }
    jpeg_abort_decompress(codec);
}

int decode_planes(struct decoder *decoder, const struct stages *stages, struct planes_memory *memory, const uint8_t *blob,
                  int64_t size, int64_t width, int64_t height, struct picture *picture) {
    struct coefficients coefficients[3];
    struct box part;
    if (!decode_coefficients(decoder, stages, memory, blob, size, width, height, picture, coefficients, &part))
        return 0;
    transform_planes(decoder, stages, coefficients, &part, width, height, picture);
    return 1;
}
