/* libjpeg with errors that return to the caller, and with output in memory; libjpeg.c describes both. */

#ifndef HARNESS_LIBJPEG_H
#define HARNESS_LIBJPEG_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>
#include <jerror.h>

enum jpeg_outcome { JPEG_DONE = 0, JPEG_DAMAGED = -1, JPEG_LEFT_ALONE = 1 };    /* as in restart_index.py and dct/blob.py */

/* The handler of a codec, whose `err` points to `base`. */
struct jpeg_errors {
    struct jpeg_error_mgr base;     /* num_warnings: those that affect pixels */
    jmp_buf back;                   /* set by setjmp; errors jump to it */
    char *message;                  /* of the error, or of the first warning that counts; NULL: not kept */
    int has_index;                  /* the JPEG has a restart index, so we wrote it: it has no extraneous bytes */
};

/* Set a handler up. message: room for JMSG_LENGTH_MAX = 200 bytes, or NULL. */
struct jpeg_error_mgr *start_jpeg_errors(struct jpeg_errors *errors, char *message);

/* Returns 1 if bytes end as those of a JPEG with a restart index do (restart_index.py). */
int ends_in_index(const uint8_t *jpeg, size_t size);

/* Returns 0 for a progressive image whose last scans are missing. A decoder smooths it; the same coefficients in one scan would
 * not be smoothed. */
int has_all_scans(const struct jpeg_decompress_struct *source);

/* Growing output buffer. (libjpeg's own jpeg_mem_dest leaks its memory after an error.) */
struct jpeg_memory {
    struct jpeg_destination_mgr base;
    uint8_t *bytes;
    size_t size;
};

/* Set the buffer of a codec up; its `dest` points to `base`. Returns 0 if memory is short. */
int start_jpeg_memory(struct jpeg_memory *memory, size_t size);

/* Return the written bytes on success; free them otherwise. */
void end_jpeg_memory(struct jpeg_memory *memory, enum jpeg_outcome outcome, uint8_t **result, unsigned long *result_size);

#endif
