/* Types and functions shared by the files of the C kernel; kernel.c describes the kernel and its
 * terms. */

#ifndef HARNESS_KERNEL_H
#define HARNESS_KERNEL_H

#include "../writers/jpeg/libjpeg.h"
#include "native/picture.h"

enum { VERSION = 6 };       /* as in kernel_c.py; raise both with each change of a function's arguments or meaning */

#define INLINE static inline __attribute__((always_inline))

/* ---- kernel_huffman.c -------------------------------------------------------------------------------------------------- */

/* Zero bytes after a clean segment. A decoder checks only at the start of a block that it is at
 * most 8 bytes beyond the segment. The codes of one block then take at most 208 bytes (27 bits for
 * DC, 63 * 26 for AC), and a read takes 8. */
enum { PADDING = 512 };
enum { NUM_LANES = 3 };     /* segments that native/lanes.c decodes at the same time */
enum { LOOKUP_BITS = 10 };  /* bits of the longest Huffman code in huffman.lookup */
/* Most bits of a code and its value in huffman.short_codes. In a photograph of quality 90, 97 % of
 * the codes have at most 11. */
enum { SHORT_BITS = 11 };
/* Run of an end-of-block code; it is larger than any run of zeros inside a block. */
enum { END_RUN = 128 };

/* A Huffman code, and the value that follows it. */
struct code {
    uint8_t length;     /* bits of the code; 0 if the code has more than LOOKUP_BITS bits */
    uint8_t total;      /* bits of the code and of the value after it */
    uint8_t run;        /* zero coefficients before the value */
    uint8_t shift;      /* 64 minus the bits of the value; 64 if no value follows */
    /* 1 - 2^bits, which is added to a value whose bits begin with 0 (JPEG's EXTEND). */
    int32_t lowest;
};

/* Decoding tables of one Huffman table. */
struct huffman {
    /* Only for AC. The index is the next SHORT_BITS bits of the data. An entry is 0 if code and
     * value together have more bits. Otherwise:
     *     bits 0 to 7     bits of code and value
     *     bits 8 to 15    1 + the number of zeros before the value
     *     bits 16 to 31   the value, an int16
     * An end-of-block code has END_RUN zeros and the value 0. */
    uint32_t short_codes[1 << SHORT_BITS];
    struct code lookup[1 << LOOKUP_BITS];   /* the index is the next LOOKUP_BITS bits */
    /* For codes that `lookup` lacks: the next 16 bits are below first_beyond[n] if they begin with
     * a code of n bits or fewer. */
    uint32_t first_beyond[18];
    /* [n] index of a symbol in `symbols`, minus its code of n bits */
    int32_t offset[17];
    const uint8_t *symbols;
};

/* Reader of bits. */
struct bits {
    uint64_t word;              /* the next bits, the first one highest */
    int count;                  /* number of valid bits in `word` */
    const uint8_t *next;        /* the byte that follows the valid bits */
};

/* Offsets in a blob: the first byte of a segment, and the byte after the marker at its end. Both
 * are 0 for a segment that no crop needs. */
struct segment {
    uint32_t begin, end;
};

/* State of decoding the segments of one image. */
struct entropy {
    const uint8_t *jpeg, *jpeg_end;     /* start of the blob; end of what may be coded data */
    /* [num_segments], row by row; NULL without an index: found by their markers */
    const struct segment *segments;
    /* Number of segments to decode (with an index: those of the part); number of the next one. */
    int64_t num_segments, segment;
    int64_t interval;                   /* MCUs in a segment */
    int64_t num_mcus, mcus_done;        /* MCUs to decode; MCUs decoded */
    int64_t mcus_left;                  /* MCUs left in the current segment */
    /* Offset in the blob of the byte after the marker of the current segment. */
    size_t position;
    /* Copy of the current segment without stuffed zeros (the byte 0 after each 0xFF). */
    uint8_t *clean;
    size_t clean_size;                  /* bytes; PADDING zeros follow */
    struct bits bits;
    int predicted[MAX_COMPS_IN_SCAN];   /* DC of each component's last block */
    struct huffman dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];    /* by number of libjpeg's table */
    struct code long_code;              /* memory for the result of long_code() */
    jmp_buf *failed;                    /* target of errors */
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
    /* Copy of a JPEG's header, with the size of the part as image size. */
    uint8_t header[MAX_HEADER];
    uint8_t *more_clean[NUM_LANES - 1];     /* as entropy.clean, for the other lanes */
    struct segment *segments;   /* memory of entropy.segments */
    /* Bytes of the longest blob for which entropy.clean, more_clean and segments have room. */
    int64_t blob_size;
    uint8_t *pixels;            /* [num_pixels, 3] RGB that libjpeg decoded */
    int64_t num_pixels;         /* pixels for which there is room */
    int num_dropped;            /* tables in libjpeg's permanent pool that are no longer used */
    uint32_t crc[4][256];       /* [z][b]: CRC-32 step of a byte b that z zero bytes follow */
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
