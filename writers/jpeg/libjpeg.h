/* An error handler of libjpeg that returns to the caller, and an output buffer in memory; libjpeg.c
 * has the reasons. */

#ifndef HARNESS_LIBJPEG_H
#define HARNESS_LIBJPEG_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>
#include <jerror.h>

enum jpeg_outcome { JPEG_DONE = 0, JPEG_DAMAGED = -1, JPEG_LEFT_ALONE = 1 };    /* as in restart_index.py and dct/blob.py */

/* Error handler of one codec; the codec's `err` points to `base`. */
struct jpeg_errors {
    struct jpeg_error_mgr base;     /* num_warnings: warnings that mean damage */
    jmp_buf back;                   /* target of errors; the caller sets it with setjmp */
    /* Text of the error, or of the first warning that means damage. NULL: no text is stored. */
    char *message;
    /* The JPEG has a restart index, so this project wrote it, and extraneous bytes are damage. */
    int has_index;
};

/* Initialize a handler. message: room for JMSG_LENGTH_MAX = 200 bytes, or NULL. */
struct jpeg_error_mgr *start_jpeg_errors(struct jpeg_errors *errors, char *message);

/* Return 1 if the bytes end with the magic number of a restart index (restart_index.py). */
int ends_in_index(const uint8_t *jpeg, size_t size);

/* Return 0 for a progressive image whose last scans are missing, otherwise 1. Decoders smooth such
 * an image, but not the same coefficients in one scan, so recoding would change pixels. */
int has_all_scans(const struct jpeg_decompress_struct *source);

/* Output buffer that grows; the codec's `dest` points to `base`. */
struct jpeg_memory {
    struct jpeg_destination_mgr base;
    uint8_t *bytes;
    size_t size;        /* allocated bytes */
};

/* Initialize a buffer with `size` bytes. Returns 0 if memory is short. */
int start_jpeg_memory(struct jpeg_memory *memory, size_t size);

/* If `outcome` is JPEG_DONE, set `*result` and `*result_size` to the written bytes, which the
 * caller frees. Otherwise, free them and set both to 0. */
void end_jpeg_memory(struct jpeg_memory *memory, enum jpeg_outcome outcome, uint8_t **result, unsigned long *result_size);

#endif
