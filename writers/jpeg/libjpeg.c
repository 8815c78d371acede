/* Error handler and output buffer for libjpeg. libjpeg's default handler ends the process on an
 * error, and its buffer (jpeg_mem_dest) leaks after an error. These do neither.
 *
 * Loaders and writers share the handler, so that they accept the same images. Extraneous bytes
 * between markers, as some cameras write them, are accepted, since no pixel depends on them. They
 * mean damage only before a restart marker, and in JPEGs that this project wrote. All other warnings
 * mean damage.
 */

#include <stdlib.h>
#include <string.h>

#include "libjpeg.h"

static void on_error(j_common_ptr codec) {
    struct jpeg_errors *errors = (struct jpeg_errors *)codec->err;
    if (errors->message != NULL)
        codec->err->format_message(codec, errors->message);
    longjmp(errors->back, 1);
}

static void on_message(j_common_ptr codec, int level) {
    struct jpeg_errors *errors = (struct jpeg_errors *)codec->err;
    int marker = codec->err->msg_parm.i[1];
    int is_harmless = codec->err->msg_code == JWRN_EXTRANEOUS_DATA && !errors->has_index &&
                      (marker < JPEG_RST0 || marker > JPEG_RST0 + 7);
    if (level < 0 && !is_harmless && codec->err->num_warnings++ == 0 && errors->message != NULL)
        codec->err->format_message(codec, errors->message);
}

struct jpeg_error_mgr *start_jpeg_errors(struct jpeg_errors *errors, char *message) {
    jpeg_std_error(&errors->base);
    errors->base.error_exit = on_error;
    errors->base.emit_message = on_message;
    errors->message = message;
    errors->has_index = 0;
    if (message != NULL)
        message[0] = 0;
    return &errors->base;
}

int ends_in_index(const uint8_t *jpeg, size_t size) {
    return size >= 8 && memcmp(jpeg + size - 8, "hrst\r\nix", 8) == 0;
}

int has_all_scans(const struct jpeg_decompress_struct *source) {
    for (int i = 0; source->coef_bits != NULL && i < source->num_components * DCTSIZE2; i++)
        if (source->coef_bits[i / DCTSIZE2][i % DCTSIZE2] != 0)
            return 0;
    return 1;
}

static void start_writing(j_compress_ptr codec) {
    struct jpeg_memory *memory = (struct jpeg_memory *)codec->dest;
    memory->base.next_output_byte = memory->bytes;
    memory->base.free_in_buffer = memory->size;
}

static boolean grow(j_compress_ptr codec) {
    struct jpeg_memory *memory = (struct jpeg_memory *)codec->dest;
    uint8_t *larger = realloc(memory->bytes, 2 * memory->size);
    if (larger == NULL)
        ERREXIT1(codec, JERR_OUT_OF_MEMORY, 0);
    memory->base.next_output_byte = larger + memory->size;
    memory->base.free_in_buffer = memory->size;
    memory->bytes = larger;
    memory->size *= 2;
    return TRUE;
}

static void end_writing(j_compress_ptr codec) {
    (void)codec;    /* all bytes are in memory already */
}

int start_jpeg_memory(struct jpeg_memory *memory, size_t size) {
    memory->base.init_destination = start_writing;
    memory->base.empty_output_buffer = grow;
    memory->base.term_destination = end_writing;
    memory->size = size;
    return (memory->bytes = malloc(size)) != NULL;
}

void end_jpeg_memory(struct jpeg_memory *memory, enum jpeg_outcome outcome, uint8_t **result, unsigned long *result_size) {
    *result = outcome == JPEG_DONE ? memory->bytes : NULL;
    *result_size = outcome == JPEG_DONE ? (unsigned long)(memory->base.next_output_byte - memory->bytes) : 0;
    if (outcome != JPEG_DONE)
        free(memory->bytes);
}
