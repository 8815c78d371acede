/* Layout of `dct` blobs: the quantized coefficients of a JPEG without entropy code, so that a crop
 * can be decoded alone and fast.
 *
 * A component's blocks are stored row by row. A row is divided into runs of DCT_RUN blocks; the
 * last run may have fewer. Decoding can begin at any run. A group is 8 coefficients that are
 * consecutive in zigzag order; the first group lacks DC.
 *
 * Numbers are little endian; bits are filled from the lowest up.
 *     header      DCT_HEADER bytes: "hdct", u8 version, u8 number of components (1 or 3), u8
 *                 halved, u8 number of tables, u16 width, u16 height, u32 checksum, u8 [3] table of
 *                 each component, u8 0. Width and height are in pixels. Bit 0 of `halved`: chroma
 *                 is halved across; bit 1: down.
 *     tables      i16 [tables, 64] quantization tables, natural order
 *     rows        u32 [rows of all components + 1] offset of each row from the start of the blob,
 *                 and the end of the last row. Zeros follow up to a multiple of 8 bytes. The
 *                 checksum covers all bytes before the first row.
 *     each row    u16 [runs] offset of each run from the start of the row; then the runs
 *     each run    u8 groups, u8 dc_bits, i16 dc_min; DC minus dc_min of each block, dc_bits bits
 *                 each; codes of each block, 3 bits for each of its first `groups` groups; then the
 *                 blocks. Groups after the first `groups` ones are empty in all blocks of the run.
 *     each block  u8 bitmap of each group that is not empty; then the values of all groups
 * DCs and codes of a run, and values of a block, begin and end at whole bytes.
 *
 * Code 0 means that the group is empty, i.e. all 8 coefficients are 0. Otherwise, the bitmap marks
 * the coefficients that are not 0 (lowest bit: the first), and a value is stored for each of them.
 * The code gives the bits w of a value (dct_bits_of). Values are -2^(w-1) ... -1, 1 ... 2^(w-1),
 * stored as their number in this list. Values of groups with code DCT_WIDE come after those of all
 * other groups.
 *
 * Blocks that only complete an MCU at the right or lower border are omitted: no pixel depends on
 * them.
 */

#ifndef HARNESS_DCT_BLOB_H
#define HARNESS_DCT_BLOB_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DCT_VERSION = 1, DCT_HEADER = 20, DCT_RUN = 16, DCT_RUN_HEADER = 4 };
/* DCT_WIDE: code of values of 11 bits, the widest ones */
enum { DCT_GROUPS = 8, DCT_CODE_BITS = 3, DCT_WIDE = 7 };
/* Bytes after a run that decoders may read. They compare the position with the end of the run
 * before each pair of blocks, so they read at most two blocks and one load of 16 bytes more. */
enum { DCT_AHEAD = 256 };
enum { DCT_MAX_BLOCK = 8 + 88 };    /* most bytes of a block: 8 bitmaps, and 64 values of 11 bits */

/* Natural position of each coefficient of the zigzag order. */
static const uint8_t DCT_ZIGZAG[64] = {
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63};

/* Return the number of bits of each value of group number `group` if its code is `code`. */
static inline int dct_bits_of(int group, int code) {
    static const uint8_t BITS[8] = {0, 1, 2, 3, 4, 5, 7, 11};
    return code == 6 && group == 0 ? 8 : BITS[code];
}

struct dct_component {
    int16_t table[64];              /* quantization, natural order */
    int64_t width, height;          /* in samples */
    int64_t blocks_per_row, num_rows, num_runs;     /* rows of blocks; runs in a row */
    int64_t first_row;              /* number of its first row among the rows of all components */
};

/* A blob whose header was checked. */
struct dct_image {
    const uint8_t *blob;
    int64_t size;                   /* of the blob, in bytes */
    int64_t width, height;          /* in pixels */
    int num_components, halved_across, halved_down;
    struct dct_component components[3];
    const uint8_t *rows;            /* the blob's u32 [rows of all components + 1] */
};

/* A run of blocks: addresses of its sections, and the fields of its header. */
struct dct_run {
    const uint8_t *dc, *codes, *blocks, *end;
    int64_t num_blocks;
    int groups, dc_bits, dc_min;
};

/* Return the checksum of the first `size` bytes, all before the first row; the bytes of the
 * checksum are taken as 0. Each step mixes 64 bits by a multiplication. size: a multiple of 8. */
uint32_t dct_checksum(const uint8_t *blob, int64_t size);

/* Fill image->components, except tables, from size and sampling of the image. Returns the number of
 * rows of all components. */
int64_t dct_lay_out(struct dct_image *image);

/* Read header, tables and rows of a blob. Returns 0 if the bytes are not a `dct` blob, or if these
 * sections are damaged. After success, row offsets ascend and are inside the blob. */
int open_dct(struct dct_image *image, const uint8_t *blob, int64_t size);

/* Largest size of a run in bytes: its header, 16 bits of DC and 24 bits of codes for each block,
 * and the blocks. */
enum { DCT_MAX_RUN = DCT_RUN_HEADER + 2 * DCT_RUN + 3 * DCT_RUN + DCT_RUN * DCT_MAX_BLOCK };

/* Find run `number` of a row of blocks.
 *
 * Decoders may read DCT_AHEAD bytes after a run. If the blob ends earlier, the run is copied to
 * `scratch`, which must have DCT_MAX_RUN + DCT_AHEAD bytes. Returns 0 if the row or the run is
 * damaged. After success, all sections of the run are inside the row. */
int find_run(const struct dct_image *image, const struct dct_component *component, int64_t row, int64_t number,
             struct dct_run *run, uint8_t *scratch);

/* Return the size of the block at `from` in bytes. `codes`: its codes, as from dct_codes; `groups`:
 * number of groups in its run. */
int64_t dct_block_size(const uint8_t *from, uint32_t codes, int groups);

/* Decode blocks first ... first + count - 1 of a row to `blocks`, int16 [count, 64] in natural
 * order. Returns 0 if the row is damaged. */
int read_dct_blocks(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *blocks);

static inline uint32_t dct_u16(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8;
}

static inline uint32_t dct_u32(const uint8_t *at) {
    return dct_u16(at) | dct_u16(at + 2) << 16;
}

/* Return the codes of the run's block `i`: 3 bits for each group, the first group lowest. */
static inline uint32_t dct_codes(const struct dct_run *run, int64_t i) {
    int64_t bit = i * DCT_CODE_BITS * run->groups;
    return dct_u32(run->codes + bit / 8) >> bit % 8 & ((1u << DCT_CODE_BITS * run->groups) - 1);
}

/* Return DC of the run's block `i`. */
static inline int16_t dct_dc(const struct dct_run *run, int64_t i) {
    int64_t bit = i * run->dc_bits;
    uint32_t value = dct_u32(run->dc + bit / 8) >> bit % 8 & ((1u << run->dc_bits) - 1);
    return (int16_t)(run->dc_min + (int32_t)value);
}

#endif
