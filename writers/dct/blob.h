/* `dct` blobs: the quantized coefficients of a JPEG without entropy code, so that a crop can be
 * decoded alone and fast.
 *
 * Little endian. A component's blocks are stored row by row, a row in runs of RUN blocks; decoding
 * can begin at any run.
 *     header      HEADER bytes: "hdct", u8 version, u8 components (1 or 3), u8 halved (1: chroma across, 2: down), u8 number of
 *                 tables, u16 width, u16 height (pixels), u32 checksum, u8 [3] each component's table, u8 0
 *     tables      i16 [tables, 64], quantization in natural order
 *     rows        u32 [rows of all components + 1]: offset of each row of blocks from the blob's begin; end of the last row
 *                 (and zeros up to a multiple of 8 bytes; the checksum covers all before the first row)
 *     each row    u16 [runs]: offset of each run from the row's begin; the runs
 *     each run    u8 groups, u8 dc_bits, i16 dc_min; n x dc_bits bits: each block's DC minus dc_min; byte-aligned;
 *                 n x groups x 3 bits: a code for each group of each block; byte-aligned; the blocks
 *     each block  u8 bitmap of each group that is not empty; values; byte-aligned
 * A group is 8 coefficients of the zigzag order (the first one lacks DC); `groups` is the maximum
 * over the blocks of the run. Bits are taken from the lowest up. Code 0: the group is empty.
 * Otherwise the bitmap marks the nonzero coefficients, and the code gives the bits of a value
 * (bits_of): w bits are one of -2^(w-1) ... -1, 1 ... 2^(w-1), counted from the lowest. Values of
 * groups of WIDE bits come after those of all others. Blocks that only pad an MCU are omitted: no
 * pixel depends on them.
 */

#ifndef HARNESS_DCT_BLOB_H
#define HARNESS_DCT_BLOB_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DCT_VERSION = 1, DCT_HEADER = 20, DCT_RUN = 16, DCT_RUN_HEADER = 4 };
enum { DCT_GROUPS = 8, DCT_CODE_BITS = 3, DCT_WIDE = 7 };       /* DCT_WIDE: the code of the widest values */
enum { DCT_AHEAD = 256 };           /* bytes after a run that decoders may read: two blocks, and a little */
enum { DCT_MAX_BLOCK = 8 + 88 };    /* bytes: bitmaps, and 64 values of 11 bits */

/* Bits of a value in group `group`. */
static inline int dct_bits_of(int group, int code) {
    static const uint8_t BITS[8] = {0, 1, 2, 3, 4, 5, 7, 11};
    return code == 6 && group == 0 ? 8 : BITS[code];
}

struct dct_component {
    int16_t table[64];              /* natural order */
    int64_t width, height;          /* in samples */
    int64_t blocks_per_row, num_rows, num_runs;     /* num_runs: of a row */
    int64_t first_row;              /* among the rows of all components */
};

struct dct_image {
    const uint8_t *blob;
    int64_t size;
    int64_t width, height;
    int num_components, halved_across, halved_down;
    struct dct_component components[3];
    const uint8_t *rows;            /* u32 [rows + 1] */
};

/* A run of blocks. */
struct dct_run {
    const uint8_t *dc, *codes, *blocks, *end;
    int64_t num_blocks;
    int groups, dc_bits, dc_min;
};

/* The checksum of what is before the first row (mixing by multiplication, 64 bits at a time),
 * without itself. size: a multiple of 8. */
uint32_t dct_checksum(const uint8_t *blob, int64_t size);

/* Fill in image->components from the size and the sampling of an image; returns the number of rows
 * of all components. */
int64_t dct_lay_out(struct dct_image *image);

/* Read the header of a blob. Returns 0 if the bytes are not a blob, or damaged. */
int open_dct(struct dct_image *image, const uint8_t *blob, int64_t size);

/* Find run `number` of a row. `scratch`, for DCT_MAX_RUN + DCT_AHEAD bytes, holds a copy of a run
 * so near the end of the blob that decoders would read past it. Returns 0 if the row or the run is
 * damaged. */
enum { DCT_MAX_RUN = DCT_RUN_HEADER + 2 * DCT_RUN + 3 * DCT_RUN + DCT_RUN * DCT_MAX_BLOCK };
int find_run(const struct dct_image *image, const struct dct_component *component, int64_t row, int64_t number,
             struct dct_run *run, uint8_t *scratch);

/* Bytes of the block at `from`, of a run, with these codes. */
int64_t dct_block_size(const uint8_t *from, uint32_t codes, int groups);

/* Decode blocks first ... first + count - 1 of a row to int16 [count, 64] in natural order.
 * Returns 0 if the row is damaged. */
int read_dct_blocks(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *blocks);

static inline uint32_t dct_u16(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8;
}

static inline uint32_t dct_u32(const uint8_t *at) {
    return dct_u16(at) | dct_u16(at + 2) << 16;
}

/* The codes of the run's block `i`, 3 bits each. */
static inline uint32_t dct_codes(const struct dct_run *run, int64_t i) {
    int64_t bit = i * DCT_CODE_BITS * run->groups;
    return dct_u32(run->codes + bit / 8) >> bit % 8 & ((1u << DCT_CODE_BITS * run->groups) - 1);
}

static inline int16_t dct_dc(const struct dct_run *run, int64_t i) {
    int64_t bit = i * run->dc_bits;
    uint32_t value = dct_u32(run->dc + bit / 8) >> bit % 8 & ((1u << run->dc_bits) - 1);
    return (int16_t)(run->dc_min + (int32_t)value);
}

#endif
