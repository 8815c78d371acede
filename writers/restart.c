/* Lossless transcoding for the restart index: the same coefficients, in one baseline scan with restart markers and
 * optimised Huffman tables. Called by restart.py, which says what for; no Python in here, so threads run side by side. */

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

enum { DONE = 0, DAMAGED = -1, LEFT_ALONE = 1 };

/* libjpeg's own error handler ends the process; this one goes back to harness_add_restart_markers. */
struct errors {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char *message;      /* of the error, or of the first warning */
};

/* Memory that grows. (libjpeg's own jpeg_mem_dest leaks what it holds when an error cuts it short.) */
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
    /* Bytes between markers, which some cameras leave, carry no pixels. All else that is a warning means damage. */
    if (level < 0 && codec->err->msg_code != JWRN_EXTRANEOUS_DATA && codec->err->num_warnings++ == 0)
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

/* A decoder smooths an image whose last scans never came; the same coefficients in one scan would not be smoothed. */
static int has_all_scans(const struct jpeg_decompress_struct *source) {
    for (int i = 0; source->coef_bits != NULL && i < source->num_components * DCTSIZE2; i++)
        if (source->coef_bits[i / DCTSIZE2][i % DCTSIZE2] != 0)
            return 0;
    return 1;
}

/* Give `*result` (to be freed with harness_free) and its size, with restart markers between each `interval` MCUs.
 * Returns DONE; DAMAGED with the reason in `message`, which has room for JMSG_LENGTH_MAX = 200 bytes; or LEFT_ALONE for a
 * whole image that one baseline scan cannot express. */
int harness_add_restart_markers(const unsigned char *jpeg, unsigned long size, unsigned int interval,
                                unsigned char **result, unsigned long *result_size, char *message) {
    struct jpeg_decompress_struct source = {0};
    struct jpeg_compress_struct target = {0};
    struct errors errors = {.message = message};
    struct memory memory = {.base = {.init_destination = start_writing, .empty_output_buffer = grow,
                                     .term_destination = end_writing}, .size = size + 65536};
    volatile int outcome = DAMAGED;     /* volatile: read after a longjmp */

    *result = NULL;
    *result_size = 0;
    message[0] = 0;
    if ((memory.bytes = malloc(memory.size)) == NULL) {
        strcpy(message, "out of memory");
        return DAMAGED;
    }
    source.err = target.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = on_error;
    errors.base.emit_message = on_message;
    if (setjmp(errors.back) == 0) {
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
    if (outcome == DONE) {
        *result = memory.bytes;
        *result_size = memory.base.next_output_byte - memory.bytes;
    } else {
        free(memory.bytes);
    }
    jpeg_destroy_compress(&target);
    jpeg_destroy_decompress(&source);
    return outcome;
}

void harness_free(unsigned char *bytes) {
    free(bytes);
}
