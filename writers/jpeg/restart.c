/* JPEGs for the restart index: one baseline scan with restart markers and optimized Huffman tables, from another JPEG's
 * coefficients or from pixels; and damage reports. Called by restart_index.py and turbojpeg.py. No Python is called, so
 * threads run in parallel. */

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

enum { DONE = 0, DAMAGED = -1, LEFT_ALONE = 1 };

/* libjpeg's own error handler ends the process; this one jumps back to `back`. */
struct errors {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char *message;      /* of the error, or of the first warning that counts */
    int has_index;      /* the JPEG is one of ours, which have no extraneous bytes */
};

/* Growing output buffer. (libjpeg's own jpeg_mem_dest leaks its memory after an error.) */
struct memory {
    struct jpeg_destination_mgr base;
    unsigned char *bytes;
    size_t size;
};

static void on_error(j_common_ptr codec) {
    struct errors *errors = (struct errors *)codec->err;
    codec->err->format_message(codec, errors->message);
    longjmp(errors->back, 1);
}

static void on_message(j_common_ptr codec, int level) {
    struct errors *errors = (struct errors *)codec->err;
    /* As in loaders/kernel_jpeg.c. Bytes between markers, which some cameras leave, carry no pixels; before a restart marker
     * they are the rest of damaged data. All other warnings mean damage. */
    int marker = codec->err->msg_parm.i[1];
    int is_harmless = codec->err->msg_code == JWRN_EXTRANEOUS_DATA && !errors->has_index &&
                      (marker < JPEG_RST0 || marker > JPEG_RST0 + 7);
    if (level < 0 && !is_harmless && codec->err->num_warnings++ == 0)
        codec->err->format_message(codec, errors->message);
}

static void start_writing(j_compress_ptr codec) {
    struct memory *memory = (struct memory *)codec->dest;
    memory->base.next_output_byte = memory->bytes;
    memory->base.free_in_buffer = memory->size;
}

static boolean grow(j_compress_ptr codec) {
    struct memory *memory = (struct memory *)codec->dest;
    unsigned char *larger = realloc(memory->bytes, 2 * memory->size);
    if (larger == NULL)
        ERREXIT1(codec, JERR_OUT_OF_MEMORY, 0);
    memory->base.next_output_byte = larger + memory->size;
    memory->base.free_in_buffer = memory->size;
    memory->bytes = larger;
    memory->size *= 2;
    return TRUE;
}

static void end_writing(j_compress_ptr codec) {
    (void)codec;    /* all of it is in memory already */
}

static struct jpeg_error_mgr *start_errors(struct errors *errors, char *message) {
    jpeg_std_error(&errors->base);
    errors->base.error_exit = on_error;
    errors->base.emit_message = on_message;
    errors->message = message;
    errors->has_index = 0;
    message[0] = 0;
    return &errors->base;
}

static int has_index(const unsigned char *jpeg, unsigned long size) {
    return size >= 8 && memcmp(jpeg + size - 8, "hrst\r\nix", 8) == 0;    /* MAGIC in restart_index.py */
}

static int start_memory(struct memory *memory, size_t size) {
    memory->base.init_destination = start_writing;
    memory->base.empty_output_buffer = grow;
    memory->base.term_destination = end_writing;
    memory->size = size;
    return (memory->bytes = malloc(size)) != NULL;
}

/* Return the written bytes on success; free them otherwise. */
static void give(struct memory *memory, int outcome, unsigned char **result, unsigned long *result_size) {
    *result = outcome == DONE ? memory->bytes : NULL;
    *result_size = outcome == DONE ? memory->base.next_output_byte - memory->bytes : 0;
    if (outcome != DONE)
        free(memory->bytes);
}

/* A decoder smooths an image whose last scans are missing; the same coefficients in one scan would not be smoothed. */
static int has_all_scans(const struct jpeg_decompress_struct *source) {
    for (int i = 0; source->coef_bits != NULL && i < source->num_components * DCTSIZE2; i++)
        if (source->coef_bits[i / DCTSIZE2][i % DCTSIZE2] != 0)
            return 0;
    return 1;
}

/* Set `*result` (to be freed with harness_free) and its size: a JPEG with a restart marker after every `interval` MCUs.
 * Returns DONE; DAMAGED with the reason in `message`, which has room for JMSG_LENGTH_MAX = 200 bytes; or LEFT_ALONE for an
 * intact image that one baseline scan cannot express. */
int harness_add_restart_markers(const unsigned char *jpeg, unsigned long size, unsigned int interval,
                                unsigned char **result, unsigned long *result_size, char *message) {
    struct jpeg_decompress_struct source = {0};
    struct jpeg_compress_struct target = {0};
    struct errors errors;
    struct memory memory;
    volatile int outcome = DAMAGED;     /* volatile: read after a longjmp */

    source.err = target.err = start_errors(&errors, message);
    errors.has_index = has_index(jpeg, size);
    if (!start_memory(&memory, size + 65536)) {
        strcpy(message, "out of memory");
    } else if (setjmp(errors.back) == 0) {
        jpeg_create_decompress(&source);
        jpeg_create_compress(&target);
        jpeg_mem_src(&source, jpeg, size);
        target.dest = &memory.base;
        jpeg_read_header(&source, TRUE);
        jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&source);
        if (errors.base.num_warnings == 0 && !has_all_scans(&source)) {
            outcome = LEFT_ALONE;
        } else if (errors.base.num_warnings == 0) {
            jpeg_copy_critical_parameters(&source, &target);
            target.restart_interval = interval;
            target.optimize_coding = TRUE;
            jpeg_write_coefficients(&target, coefficients);
            jpeg_finish_compress(&target);
            outcome = DONE;
        }
    } else if (errors.base.msg_code == JERR_MISMATCHED_QUANT_TABLE) {  /* a table was changed between two scans */
        outcome = LEFT_ALONE;
    }
    give(&memory, outcome, result, result_size);
    jpeg_destroy_compress(&target);
    jpeg_destroy_decompress(&source);
    return outcome;
}

/* Write the first damage of a JPEG to `message`, which has room for 200 bytes: '' if no pixel is affected. */
void harness_find_damage(const unsigned char *jpeg, unsigned long size, char *message) {
    struct jpeg_decompress_struct source = {0};
    struct errors errors;

    source.err = start_errors(&errors, message);
    errors.has_index = has_index(jpeg, size);
    if (setjmp(errors.back) == 0) {
        jpeg_create_decompress(&source);
        jpeg_mem_src(&source, jpeg, size);
        jpeg_read_header(&source, TRUE);
        jpeg_read_coefficients(&source);    /* to the end of the image */
    }
    jpeg_destroy_decompress(&source);
}

/* The rows of one component that make up a row of MCUs, copied to `rows`, whose ends and last rows fill whole blocks. */
static void fill_rows(const jpeg_component_info *component, const unsigned char *plane, int stride, int width, int height,
                      int first, JSAMPARRAY rows) {
    const int block_width = component->width_in_blocks * DCTSIZE, num_rows = component->v_samp_factor * DCTSIZE;
    for (int i = 0; i < num_rows; i++) {
        const unsigned char *row = plane + (size_t)(first + i < height ? first + i : height - 1) * stride;
        memcpy(rows[i], row, width);
        memset(rows[i] + width, row[width - 1], block_width - width);
    }
}

static int whole(int side, int num_planes) {
    return num_planes == 1 ? side : (side + 1) / 2 * 2;
}

/* Encode planes, one of gray or three of YCbCr at 4:2:0, with `strides` in bytes. Equal to harness_add_restart_markers
 * of the output of libjpeg-turbo's tjCompressFromYUVPlanes. */
int harness_encode_with_markers(const unsigned char *const planes[3], const int strides[3], int num_planes, int width,
                                int height, int quality, unsigned int interval, unsigned char **result,
                                unsigned long *result_size, char *message) {
    struct jpeg_compress_struct target = {0};
    struct errors errors;
    struct memory memory;
    volatile int outcome = DAMAGED;

    target.err = start_errors(&errors, message);
    if (!start_memory(&memory, (size_t)width * height / 2 + 65536)) {
        strcpy(message, "out of memory");
    } else if (setjmp(errors.back) == 0) {
        JSAMPARRAY rows[3];
        jpeg_create_compress(&target);
        target.dest = &memory.base;
        target.image_width = width;
        target.image_height = height;
        target.input_components = num_planes;
        target.in_color_space = num_planes == 1 ? JCS_GRAYSCALE : JCS_YCbCr;
        jpeg_set_defaults(&target);     /* which makes YCbCr 4:2:0 */
        jpeg_set_quality(&target, quality, TRUE);
        target.dct_method = JDCT_ISLOW;
        target.raw_data_in = TRUE;
        target.restart_interval = interval;
        target.optimize_coding = TRUE;
        jpeg_start_compress(&target, TRUE);
        for (int i = 0; i < num_planes; i++)
            rows[i] = target.mem->alloc_sarray((j_common_ptr)&target, JPOOL_IMAGE,
                                               target.comp_info[i].width_in_blocks * DCTSIZE,
                                               target.comp_info[i].v_samp_factor * DCTSIZE);
        for (int row = 0; row < height; row += target.max_v_samp_factor * DCTSIZE) {
            for (int i = 0; i < num_planes; i++) {
                const int factor = i == 0 ? 1 : 2;      /* of chroma; luma is padded to whole pixels of it */
                fill_rows(&target.comp_info[i], planes[i], strides[i], whole(width, num_planes) / factor,
                          whole(height, num_planes) / factor, row / factor, rows[i]);
            }
            jpeg_write_raw_data(&target, rows, target.max_v_samp_factor * DCTSIZE);
        }
        jpeg_finish_compress(&target);
        outcome = DONE;
    }
    give(&memory, outcome, result, result_size);
    jpeg_destroy_compress(&target);
    return outcome;
}

void harness_free(unsigned char *bytes) {
    free(bytes);
}
