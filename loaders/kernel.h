/* What the files of the C kernel share; kernel.c describes the kernel. */

#ifndef HARNESS_KERNEL_H
#define HARNESS_KERNEL_H

#include "../writers/jpeg/libjpeg.h"
#include "native/picture.h"

enum { VERSION = 6 };       /* as in kernel_c.py; raise both with each change of a function's arguments or meaning */

#define INLINE static inline __attribute__((always_inline))

/* ---- kernel_huffman.c -------------------------------------------------------------------------------------------------- */

enum { PADDING = 512 };     /* bytes after a segment: more than the codes of one block, whose reads are not checked singly */
enum { NUM_LANES = 3 };     /* segments that are decoded at the same time */
enum { LOOKUP_BITS = 10 };
enum { SHORT_BITS = 11 };   /* of a code with its value: 97 % of those of a photograph at quality 90 */
enum { END_RUN = 128 };     /* more than all zeros of a block */

struct code {
    uint8_t length;     /* of the code, 0 if it is longer than LOOKUP_BITS */
    uint8_t total;      /* including the bits of the value after it */
    uint8_t run;        /* zeros before the value */
    uint8_t shift;      /* 64 minus the value's bits; 64: no value */
    int32_t lowest;     /* value: those that begin with a 0 bit count from here */
};

struct huffman {
    /* Of AC codes, for the next SHORT_BITS bits: bits of a code with its value, 1 more than the zeros before the value in
     * bits 8 to 15, the value in bits 16 to 31. At the end of a block END_RUN zeros before a 0. 0: code and value have more bits. */
    uint32_t short_codes[1 << SHORT_BITS];
    struct code lookup[1 << LOOKUP_BITS];
    uint32_t first_beyond[18];      /* of each length: the first code that is too large for it, in 16 bits */
    int32_t offset[17];             /* from a code of this length to its symbol */
    const uint8_t *symbols;
};

struct bits {
    uint64_t word;              /* the next bits, from the highest down */
    int count;                  /* how many of them are valid; more may be there */
    const uint8_t *next;        /* byte to take after them */
};

/* Offsets of a segment's first byte and of the byte after its marker. */
struct segment {
    uint32_t begin, end;
};

/* Coded data between two markers, and the blocks in it. */
struct entropy {
    const uint8_t *jpeg, *jpeg_end;     /* begin of the blob; end of the possible coded data */
    const struct segment *segments;     /* in order; NULL if they are contiguous */
    int64_t num_segments, segment;      /* in the image, or with an index under the crop; next one */
    int64_t interval;                   /* MCUs in a segment */
    int64_t num_mcus, mcus_done;        /* in all that is to be decoded */
    int64_t mcus_left;                  /* in this segment */
    size_t position;                    /* after the marker at the end of this one */
    uint8_t *clean;                     /* this segment without the zeros stuffed after each 0xFF */
    size_t clean_size;
    struct bits bits;
    int predicted[MAX_COMPS_IN_SCAN];
    struct huffman dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    struct code long_code;              /* the last one that was too long for the lookup */
    jmp_buf *failed;
};

int make_tables(j_decompress_ptr codec, struct entropy *entropy);
int use_own_entropy(j_decompress_ptr codec, struct entropy *entropy);
void decode_rest(j_decompress_ptr codec);

/* ---- kernel_jpeg.c ------------------------------------------------------------------------------------------------------- */

enum { MAX_HEADER = 4096 };     /* as in writers/jpeg/restart_index.py */

struct decoder {
    struct jpeg_decompress_struct codec;
    struct jpeg_errors errors;
    struct entropy entropy;
    uint8_t header[MAX_HEADER];
    uint8_t *more_clean[NUM_LANES - 1];     /* as entropy.clean, of the other segments that are decoded at the same time */
    struct segment *segments;   /* room for the segments of the longest blob */
    int64_t blob_size;          /* for which there is room in entropy.clean, more_clean and segments */
    uint8_t *pixels;            /* [num_pixels, 3] */
    int64_t num_pixels;
    int num_dropped;            /* tables in libjpeg's permanent pool that are no longer used */
    uint32_t crc[4][256];       /* of a byte, and of a byte before 1 to 3 zeros */
};

struct decoder *new_decoder(void);
int reserve_blob(struct decoder *decoder, int64_t size);
int reserve_pixels(struct decoder *decoder, int64_t num_pixels);
void free_decoder(struct decoder *decoder);
int open_indexed(struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height, const struct box *crops,
                 int64_t num_crops, const struct box *box, struct box *part);
int decode_box(struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height, const struct box *box,
               struct box *part);

#endif
