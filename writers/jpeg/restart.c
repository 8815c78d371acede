/* Write the JPEGs to which restart_index.py adds an index: one baseline scan with restart markers
 * and optimized Huffman tables, from the coefficients of another JPEG or from pixels. Also find the
 * damage of a JPEG, for turbojpeg.py. Runs without the GIL. */

#include <stdlib.h>
#include <string.h>

#include "libjpeg.h"

/* Recode a JPEG's coefficients, with a restart marker after every `interval` MCUs. Sets `*result`
 * (to be freed with harness_free) and its size in bytes. Returns JPEG_DONE; JPEG_DAMAGED with the
 * reason in `message`, which has room for JMSG_LENGTH_MAX = 200 bytes; or JPEG_LEFT_ALONE, with no
 * result, for an intact image that one baseline scan cannot express. */
int harness_add_restart_markers(const unsigned char *jpeg, unsigned long size, unsigned int interval,
                                unsigned char **result, unsigned long *result_size, char *message) {
    struct jpeg_decompress_struct source = {0};
    struct jpeg_compress_struct target = {0};
    struct jpeg_errors errors;
    struct jpeg_memory memory;
    volatile int outcome = JPEG_DAMAGED;     /* volatile: read after a longjmp */

    source.err = target.err = start_jpeg_errors(&errors, message);
    errors.has_index = ends_in_index(jpeg, size);
    if (!start_jpeg_memory(&memory, size + 65536)) {
        strcpy(message, "out of memory");
    } else if (setjmp(errors.back) == 0) {
        jpeg_create_decompress(&source);
        jpeg_create_compress(&target);
        jpeg_mem_src(&source, jpeg, size);
        target.dest = &memory.base;
        jpeg_read_header(&source, TRUE);
        jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&source);
        if (errors.base.num_warnings == 0 && !has_all_scans(&source)) {
            outcome = JPEG_LEFT_ALONE;
        } else if (errors.base.num_warnings == 0) {
            jpeg_copy_critical_parameters(&source, &target);
            target.restart_interval = interval;
            target.optimize_coding = TRUE;
            jpeg_write_coefficients(&target, coefficients);
            jpeg_finish_compress(&target);
            outcome = JPEG_DONE;
        }
    } else if (errors.base.msg_code == JERR_MISMATCHED_QUANT_TABLE) {  /* a table was changed between two scans */
        outcome = JPEG_LEFT_ALONE;
    }
    end_jpeg_memory(&memory, outcome, result, result_size);
    jpeg_destroy_compress(&target);
    jpeg_destroy_decompress(&source);
    return outcome;
}

/* Write a description of the first damage of a JPEG to `message`, which has room for 200 bytes: an
 * empty text if there is none. */
void harness_find_damage(const unsigned char *jpeg, unsigned long size, char *message) {
    struct jpeg_decompress_struct source = {0};
    struct jpeg_errors errors;

    source.err = start_jpeg_errors(&errors, message);
    errors.has_index = ends_in_index(jpeg, size);
    if (setjmp(errors.back) == 0) {
        jpeg_create_decompress(&source);
        jpeg_mem_src(&source, jpeg, size);
        jpeg_read_header(&source, TRUE);
        jpeg_read_coefficients(&source);    /* to the end of the image */
    }
    jpeg_destroy_decompress(&source);
}

/* Copy the rows of a component's plane that belong to one row of MCUs to `rows`, from row `first`
 * on. Rows of `rows` have whole blocks: the last sample of each row is repeated, and so is the last
 * row of the plane. Sizes are in samples. */
static void fill_rows(const jpeg_component_info *component, const unsigned char *plane, int stride, int width, int height,
                      int first, JSAMPARRAY rows) {
    const int block_width = component->width_in_blocks * DCTSIZE, num_rows = component->v_samp_factor * DCTSIZE;
    for (int i = 0; i < num_rows; i++) {
        const unsigned char *row = plane + (size_t)(first + i < height ? first + i : height - 1) * stride;
        memcpy(rows[i], row, width);
        memset(rows[i] + width, row[width - 1], block_width - width);
    }
}

/* Return a side of the luma plane in samples: rounded up to even if chroma is halved, i.e. with
 * three planes. */
static int whole(int side, int num_planes) {
    return num_planes == 1 ? side : (side + 1) / 2 * 2;
}

/* Encode planes (one gray, or three of YCbCr at 4:2:0; `strides` in bytes) with a restart marker
 * after every `interval` MCUs. The bytes equal those that harness_add_restart_markers makes from the
 * output of libjpeg-turbo's tjCompressFromYUVPlanes. Returns JPEG_DONE or JPEG_DAMAGED, as there. */
int harness_encode_with_markers(const unsigned char *const planes[3], const int strides[3], int num_planes, int width,
                                int height, int quality, unsigned int interval, unsigned char **result,
                                unsigned long *result_size, char *message) {
    struct jpeg_compress_struct target = {0};
    struct jpeg_errors errors;
    struct jpeg_memory memory;
    volatile int outcome = JPEG_DAMAGED;

    target.err = start_jpeg_errors(&errors, message);
    if (!start_jpeg_memory(&memory, (size_t)width * height / 2 + 65536)) {
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
                const int factor = i == 0 ? 1 : 2;      /* chroma is halved along both axes */
                fill_rows(&target.comp_info[i], planes[i], strides[i], whole(width, num_planes) / factor,
                          whole(height, num_planes) / factor, row / factor, rows[i]);
            }
            jpeg_write_raw_data(&target, rows, target.max_v_samp_factor * DCTSIZE);
        }
        jpeg_finish_compress(&target);
        outcome = JPEG_DONE;
    }
    end_jpeg_memory(&memory, outcome, result, result_size);
    jpeg_destroy_compress(&target);
    return outcome;
}

void harness_free(unsigned char *bytes) {
    free(bytes);
}
