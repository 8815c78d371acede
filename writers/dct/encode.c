/* Convert JPEGs to `dct` blobs and back, without decoding pixels, for blob.py. blob.h defines the
 * layout. */

#include <stdlib.h>

#include "../jpeg/libjpeg.h"
#include "blob.h"

enum { MIN_WIDTH = 8 };     /* pixels; libjpeg upsamples images of at most 4 pixels differently */

/* ---- Writing ------------------------------------------------------------------------------------------------------------- */

/* Writes bits from the lowest up. */
struct bit_writer {
    uint8_t *next;
    uint64_t word;      /* bits that are not written yet */
    int count;          /* their number, below 32 between calls */
};

static void put_bits(struct bit_writer *writer, uint32_t value, int count) {
    writer->word |= (uint64_t)value << writer->count;
    writer->count += count;
    if (writer->count >= 32) {
        for (int i = 0; i < 4; i++)
            writer->next[i] = (uint8_t)(writer->word >> 8 * i);
        writer->next += 4;
        writer->word >>= 32;
        writer->count -= 32;
    }
}

/* Write the bits that are left, and zeros up to a whole byte. */
static void end_byte(struct bit_writer *writer) {
    for (; writer->count > 0; writer->count -= 8, writer->word >>= 8)
        *writer->next++ = (uint8_t)writer->word;
    writer->word = 0;
    writer->count = 0;
}

/* Return the code with the fewest bits that can store all values of a group, or -1 if none can.
 * `values`: the 8 coefficients of the group, with 0 instead of DC. */
static int code_of(int group, const int16_t values[8]) {
    int present = 0, beyond = 0, has_128 = 0;
    for (int k = 0; k < 8; k++) {
        int value = values[k];
        present |= value;
        has_128 |= value == 128;
        /* Distance of the value from 1 or -1. */
        beyond |= value > 0 ? value - 1 : value < 0 ? -value - 1 : 0;
    }
    if (present == 0)
        return 0;
    int bits = beyond == 0 ? 1 : 33 - __builtin_clz((unsigned)beyond);
    for (int code = 1; code <= DCT_WIDE; code++) {
        int width = dct_bits_of(group, code);
        /* Decoders keep values of 8 bits in a signed byte, which 128 does not fit. */
        if (bits <= width && !(width == 8 && has_128))
            return code;
    }
    return -1;
}

/* Write a block to `to`; return its end. `values`: [64] zigzag order, with 0 instead of DC. */
static uint8_t *put_block(uint8_t *to, const int16_t values[64], const uint8_t codes[8], int groups) {
    uint8_t bitmaps[8];
    for (int g = 0; g < groups; g++) {
        int present = 0;
        for (int k = 0; k < 8; k++)
            present |= (values[8 * g + k] != 0) << k;
        bitmaps[g] = (uint8_t)present;
        if (present != 0)
            *to++ = (uint8_t)present;
    }
    struct bit_writer writer = {to, 0, 0};
    for (int wide = 0; wide < 2; wide++)
        for (int g = 0; g < groups; g++) {
            if (codes[g] == 0 || (codes[g] == DCT_WIDE) != wide)
                continue;
            int bits = dct_bits_of(g, codes[g]);
            for (unsigned present = bitmaps[g]; present != 0; present &= present - 1) {
                int value = values[8 * g + __builtin_ctz(present)];
                put_bits(&writer, (uint32_t)(value - (value > 0) + (1 << (bits - 1))), bits);
            }
        }
    end_byte(&writer);
    return writer.next;
}

/* Write a run of n blocks [n, 64] (natural order) to `to`. Returns its end, or NULL if the format
 * cannot store a coefficient. */
static uint8_t *put_run(uint8_t *to, const JBLOCK *blocks, int64_t n) {
    int16_t values[DCT_RUN][64];
    uint8_t codes[DCT_RUN][8];
    int groups = 0, dc_min = 32767, dc_max = -32768, dc_bits = 0;
    for (int64_t i = 0; i < n; i++) {
        for (int k = 1; k < 64; k++)
            values[i][k] = blocks[i][DCT_ZIGZAG[k]];
        values[i][0] = 0;
        for (int g = 0; g < 8; g++) {
            int code = code_of(g, values[i] + 8 * g);
            if (code < 0)
                return NULL;
            codes[i][g] = (uint8_t)code;
            groups = code > 0 && g + 1 > groups ? g + 1 : groups;
        }
        dc_min = blocks[i][0] < dc_min ? blocks[i][0] : dc_min;
        dc_max = blocks[i][0] > dc_max ? blocks[i][0] : dc_max;
    }
    while ((dc_max - dc_min) >> dc_bits)
        dc_bits++;
    to[0] = (uint8_t)groups, to[1] = (uint8_t)dc_bits, to[2] = (uint8_t)dc_min, to[3] = (uint8_t)((unsigned)dc_min >> 8);
    struct bit_writer writer = {to + DCT_RUN_HEADER, 0, 0};
    for (int64_t i = 0; i < n; i++)
        put_bits(&writer, (uint32_t)(blocks[i][0] - dc_min), dc_bits);
    end_byte(&writer);
    for (int64_t i = 0; i < n; i++)
        for (int g = 0; g < groups; g++)
            put_bits(&writer, codes[i][g], DCT_CODE_BITS);
    end_byte(&writer);
    to = writer.next;
    for (int64_t i = 0; i < n; i++)
        to = put_block(to, values[i], codes[i], groups);
    return to;
}

/* ---- JPEG to blob -------------------------------------------------------------------------------------------------------- */

/* Return 1 if the format can store the image: gray, or YCbCr at 4:4:4, 4:2:2, 4:4:0 or 4:2:0. */
static int is_ordinary(const struct jpeg_decompress_struct *source) {
    if (source->data_precision != 8 || source->image_width < MIN_WIDTH || source->image_width > 65535 ||
        source->image_height > 65535)
        return 0;
    if (source->num_components == 1)
        return source->jpeg_color_space == JCS_GRAYSCALE;
    const jpeg_component_info *parts = source->comp_info;
    return source->num_components == 3 && source->jpeg_color_space == JCS_YCbCr && parts[0].h_samp_factor <= 2 &&
           parts[0].v_samp_factor <= 2 && parts[1].h_samp_factor == 1 && parts[1].v_samp_factor == 1 &&
           parts[2].h_samp_factor == 1 && parts[2].v_samp_factor == 1;
}

static void put_u16(uint8_t *to, uint32_t value) {
    to[0] = (uint8_t)value, to[1] = (uint8_t)(value >> 8);
}

static void put_u32(uint8_t *to, uint32_t value) {
    put_u16(to, value & 0xFFFF), put_u16(to + 2, value >> 16);
}

/* Return an upper bound of the size of a blob in bytes. */
static int64_t most_bytes(const struct dct_image *image, int64_t num_rows) {
    int64_t size = DCT_HEADER + 3 * 128 + 4 * (num_rows + 1) + 8;
    for (int c = 0; c < image->num_components; c++)
        size += image->components[c].num_rows * image->components[c].num_runs * (2 + DCT_MAX_RUN);
    return size;
}

/* Write the whole blob. Returns its size in bytes, or 0 if the format cannot store the image. */
static int64_t put_image(j_decompress_ptr source, jvirt_barray_ptr *coefficients, struct dct_image *image, int64_t num_rows,
                         uint8_t *blob) {
    memcpy(blob, "hdct", 4);
    blob[4] = DCT_VERSION, blob[5] = (uint8_t)image->num_components;
    blob[6] = (uint8_t)(image->halved_across | image->halved_down << 1);
    put_u16(blob + 8, (uint32_t)image->width);
    put_u16(blob + 10, (uint32_t)image->height);
    memset(blob + 12, 0, DCT_HEADER - 12);
    uint8_t *tables = blob + DCT_HEADER;
    int num_tables = 0;
    for (int c = 0; c < image->num_components; c++) {
        const JQUANT_TBL *quant = source->comp_info[c].quant_table;
        uint8_t table[128];
        int number = 0;
        if (quant == NULL)
            return 0;
        for (int k = 0; k < 64; k++)
            put_u16(table + 2 * k, quant->quantval[k]);
        while (number < num_tables && memcmp(tables + 128 * number, table, 128) != 0)
            number++;
        memcpy(tables + 128 * number, table, 128);
        num_tables = number == num_tables ? num_tables + 1 : num_tables;
        blob[16 + c] = (uint8_t)number;
    }
    blob[7] = (uint8_t)num_tables;
    uint8_t *rows = tables + 128 * num_tables;
    int64_t begin = (rows - blob + 4 * (num_rows + 1) + 7) / 8 * 8;
    memset(rows, 0, blob + begin - rows);
    uint8_t *to = blob + begin;
    for (int c = 0; c < image->num_components; c++) {
        const struct dct_component *component = &image->components[c];
        for (int64_t y = 0; y < component->num_rows; y++, rows += 4) {
            JBLOCKROW blocks = source->mem->access_virt_barray((j_common_ptr)source, coefficients[c], (JDIMENSION)y, 1, FALSE)[0];
            uint8_t *row = to;
            put_u32(rows, (uint32_t)(row - blob));
            to += 2 * component->num_runs;
            for (int64_t run = 0; run < component->num_runs; run++) {
                int64_t left = component->blocks_per_row - DCT_RUN * run;
                if (to - row > 65535)
                    return 0;
                put_u16(row + 2 * run, (uint32_t)(to - row));
                to = put_run(to, blocks + DCT_RUN * run, left < DCT_RUN ? left : DCT_RUN);
                if (to == NULL)
                    return 0;
            }
            if (to - blob > UINT32_MAX)
                return 0;
        }
    }
    put_u32(rows, (uint32_t)(to - blob));
    put_u32(blob + 12, dct_checksum(blob, begin));
    return to - blob;
}

/* Convert a JPEG to a blob. Sets `*result` (to be freed with harness_free) and its size in bytes.
 *
 * Returns JPEG_DONE; JPEG_DAMAGED with the reason in `message`, which has room for 200 bytes; or
 * JPEG_LEFT_ALONE, with no result, for an intact image that the format cannot store. */
int harness_jpeg_to_dct(const unsigned char *jpeg, unsigned long size, unsigned char **result, unsigned long *result_size,
                        char *message) {
    struct jpeg_decompress_struct source = {0};
    struct jpeg_errors errors;
    uint8_t *volatile blob = NULL;
    volatile int outcome = JPEG_DAMAGED;
    *result = NULL;
    source.err = start_jpeg_errors(&errors, message);
    errors.has_index = ends_in_index(jpeg, size);
    if (setjmp(errors.back) == 0) {
        jpeg_create_decompress(&source);
        jpeg_mem_src(&source, jpeg, size);
        jpeg_read_header(&source, TRUE);
        jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&source);
        if (errors.base.num_warnings == 0)
            outcome = JPEG_LEFT_ALONE;
        if (outcome == JPEG_LEFT_ALONE && has_all_scans(&source) && is_ordinary(&source)) {
            struct dct_image image = {.width = source.image_width, .height = source.image_height,
                                      .num_components = source.num_components};
            image.halved_across = image.num_components == 3 && source.comp_info[0].h_samp_factor == 2;
            image.halved_down = image.num_components == 3 && source.comp_info[0].v_samp_factor == 2;
            int64_t num_rows = dct_lay_out(&image);
            blob = malloc(most_bytes(&image, num_rows));
            if (blob == NULL)
                ERREXIT1(&source, JERR_OUT_OF_MEMORY, 0);
            int64_t written = put_image(&source, coefficients, &image, num_rows, blob);
            if (written > 0) {
                unsigned char *fitted = realloc(blob, written);
                *result = fitted != NULL ? fitted : blob;
                *result_size = written;
                blob = NULL;
                outcome = JPEG_DONE;
            }
        }
    } else if (errors.base.msg_code == JERR_MISMATCHED_QUANT_TABLE) {   /* a table was changed between two scans */
        outcome = JPEG_LEFT_ALONE;
    } else {
        outcome = JPEG_DAMAGED;
    }
    free(blob);
    jpeg_destroy_decompress(&source);
    return outcome;
}

/* ---- Blob to JPEG --------------------------------------------------------------------------------------------------------- */

static void set_component(j_compress_ptr target, const struct dct_image *image, int c) {
    jpeg_component_info *part = &target->comp_info[c];
    part->h_samp_factor = c == 0 && image->halved_across ? 2 : 1;
    part->v_samp_factor = c == 0 && image->halved_down ? 2 : 1;
    part->quant_tbl_no = c;
    if (target->quant_tbl_ptrs[c] == NULL)
        target->quant_tbl_ptrs[c] = jpeg_alloc_quant_table((j_common_ptr)target);
    for (int k = 0; k < 64; k++)
        target->quant_tbl_ptrs[c]->quantval[k] = (UINT16)image->components[c].table[k];
}

/* Convert a blob to a JPEG of the same pixels. Arguments and result as in harness_jpeg_to_dct, but
 * never JPEG_LEFT_ALONE. Blocks that only complete an MCU are copies of the last block of their
 * row, or of the last row. */
int harness_dct_to_jpeg(const unsigned char *blob, unsigned long size, unsigned char **result, unsigned long *result_size,
                        char *message) {
    struct jpeg_compress_struct target = {0};
    struct jpeg_errors errors;
    struct jpeg_memory memory = {0};
    struct dct_image image;
    volatile int outcome = JPEG_DAMAGED;
    *result = NULL;
    target.err = start_jpeg_errors(&errors, message);
    if (!open_dct(&image, blob, (int64_t)size)) {
        strcpy(message, "its header is damaged");
        return JPEG_DAMAGED;
    }
    if (!start_jpeg_memory(&memory, size + 65536)) {
        strcpy(message, "out of memory");
        return JPEG_DAMAGED;
    }
    if (setjmp(errors.back) == 0) {
        jvirt_barray_ptr arrays[3];
        jpeg_create_compress(&target);
        target.dest = &memory.base;
        target.image_width = (JDIMENSION)image.width;
        target.image_height = (JDIMENSION)image.height;
        target.input_components = image.num_components;
        target.in_color_space = image.num_components == 1 ? JCS_GRAYSCALE : JCS_YCbCr;
        jpeg_set_defaults(&target);
        target.optimize_coding = TRUE;
        for (int c = 0; c < image.num_components; c++) {
            set_component(&target, &image, c);
            int64_t across = target.comp_info[c].h_samp_factor, down = target.comp_info[c].v_samp_factor;
            arrays[c] = target.mem->request_virt_barray(
                (j_common_ptr)&target, JPOOL_IMAGE, TRUE, (JDIMENSION)((image.components[c].blocks_per_row + across - 1) / across * across),
                (JDIMENSION)((image.components[c].num_rows + down - 1) / down * down), (JDIMENSION)down);
        }
        jpeg_write_coefficients(&target, arrays);
        int is_whole = 1;
        for (int c = 0; is_whole && c < image.num_components; c++) {
            const struct dct_component *component = &image.components[c];
            int64_t across = target.comp_info[c].h_samp_factor, down = target.comp_info[c].v_samp_factor;
            int64_t padded = (component->blocks_per_row + across - 1) / across * across;
            int64_t num_rows = (component->num_rows + down - 1) / down * down;
            for (int64_t y = 0; is_whole && y < num_rows; y++) {
                JBLOCKROW row = target.mem->access_virt_barray((j_common_ptr)&target, arrays[c], (JDIMENSION)y, 1, TRUE)[0];
                int64_t from = y < component->num_rows ? y : component->num_rows - 1;
                is_whole = read_dct_blocks(&image, c, from, 0, component->blocks_per_row, row[0]);
                for (int64_t x = component->blocks_per_row; x < padded; x++)
                    memcpy(row[x], row[component->blocks_per_row - 1], sizeof row[x]);
            }
        }
        if (is_whole) {
            jpeg_finish_compress(&target);
            outcome = JPEG_DONE;
        } else {
            strcpy(message, "a row of its blocks is damaged");
        }
    } else {
        outcome = JPEG_DAMAGED;
    }
    end_jpeg_memory(&memory, outcome, result, result_size);
    jpeg_destroy_compress(&target);
    return outcome;
}

/* Read all blocks of a blob, and set its width and height in pixels. Returns JPEG_DONE, or
 * JPEG_DAMAGED with the reason in `message`, which has room for 200 bytes. */
int harness_check_dct(const unsigned char *blob, unsigned long size, int *width, int *height, char *message) {
    struct dct_image image;
    if (!open_dct(&image, blob, (int64_t)size)) {
        strcpy(message, "its header is damaged");
        return JPEG_DAMAGED;
    }
    int16_t *blocks = malloc(64 * image.components[0].blocks_per_row * sizeof *blocks);
    int is_whole = blocks != NULL;
    for (int c = 0; is_whole && c < image.num_components; c++)
        for (int64_t y = 0; is_whole && y < image.components[c].num_rows; y++)
            is_whole = read_dct_blocks(&image, c, y, 0, image.components[c].blocks_per_row, blocks);
    free(blocks);
    *width = (int)image.width, *height = (int)image.height;
    if (!is_whole)
        strcpy(message, "a row of its blocks is damaged");
    return is_whole ? JPEG_DONE : JPEG_DAMAGED;
}

/* Decode the coefficients of a component to `blocks`, int16 [rows, blocks_per_row, 64] in natural
 * order, for tests. Returns 0 if the blob is damaged. */
int harness_read_dct(const unsigned char *blob, unsigned long size, int component, int16_t *blocks) {
    struct dct_image image;
    if (!open_dct(&image, blob, (int64_t)size) || component >= image.num_components)
        return 0;
    const struct dct_component *part = &image.components[component];
    for (int64_t y = 0; y < part->num_rows; y++)
        if (!read_dct_blocks(&image, component, y, 0, part->blocks_per_row, blocks + 64 * part->blocks_per_row * y))
            return 0;
    return 1;
}
