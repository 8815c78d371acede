/* The inner loops of the C kernel, and the instruction sets for which they are written.
 *
 * Each loop has a scalar version in plain C, which defines the result, and versions in intrinsics
 * that give the same bytes. `stages_of` chooses one set of versions at run time. All rows of
 * samples and levels have ROW_PADDING bytes before and after them. A loop processes whole vectors,
 * so it may read and write these bytes; their content is undefined.
 */

#ifndef HARNESS_STAGES_H
#define HARNESS_STAGES_H

#include <stddef.h>
#include <stdint.h>

enum { ROW_PADDING = 64 };
/* Bits that are dropped after the sums across and down: 14 + 14 - 7 - 21 = 0, so the results are
 * levels again. */
enum { ROUND_ACROSS = 7, ROUND_DOWN = 21, WEIGHT_BITS = 14 };
/* Largest value of a row after the resize across; the smallest is 0. It fits an int16. */
enum { MOST_ACROSS = 255 << (WEIGHT_BITS - ROUND_ACROSS) };

/* The weights along one axis; resize.c has the equations. Source pixels are those of the crop,
 * output pixels those of the output image. The weights of an output pixel sum to 2^WEIGHT_BITS. */
struct weights {
    /* [target] first source pixel and number of source pixels of an output pixel */
    int32_t *starts, *counts;
    /* [target, stride] weights in units of 2^-WEIGHT_BITS; 0 after `counts` of them */
    int16_t *values;
    int64_t target, stride;     /* output pixels; stride: a multiple of 16 */
    int64_t most;               /* maximum of `counts` */
    int has_negative;           /* some weights are negative, so that sums may be out of range */

    /* Tables for vector code of the axis across. Output pixels form groups. The source pixels of a
     * group must fit into one window of consecutive bytes, which one load reads: 16 bytes in AVX2,
     * 64 with stages->has_windows. A group's window begins at source pixel bases[group]. `shuffles`
     * move bytes of the window to the place of their weight. An output pixel's source pixels are
     * processed in pairs; both weights of a pair are adjacent, as multiply-add instructions need
     * them. Output pixels beyond the last are copies of it, up to whole blocks.
     *
     * There are three layouts, the first one that is possible is used. In all three, an output
     * pixel takes at most 4 bytes of shuffles and 4 of weights for each pair.
     *
     * has_bytes: at most 3 source pixels, no negative weight. A weight is 128 * high + low, both
     * int8.
     *     A block is 16 output pixels, 2 groups of 8; with has_windows, 32 output pixels, 1 group.
     *         bases         [groups]
     *         shuffles      [blocks, pairs, output pixels of a block, 2]
     *         byte_values   [blocks, pairs, 2 (high, low), output pixels of a block, 2]
     * is_narrow in AVX2: a block is 16 output pixels, 4 groups of 4. Levels are words, so each byte
     * in `shuffles` has a zero (0x80) after it. Groups 0 and 2 are the halves of one 32-byte
     * vector, groups 1 and 3 of the next: `packs` then puts output pixels in order.
     *         bases         [blocks, 4]
     *         shuffles      [blocks, pairs, 2 (groups 0, 2; 1, 3), 2 (group), 4 (output pixel), 4]
     *         pair_values   [blocks, pairs, 2, 2, 4, 2]
     * is_narrow with has_windows: a block is 16 output pixels, 1 group; the number of blocks is
     * even.
     *         bases         [blocks]
     *         shuffles      [blocks, pairs, 16, 4], an undefined byte after each
     *         pair_values   [blocks, pairs, 16, 2]
     * If neither is set, vector code uses starts, counts and values. */
    int is_narrow;
    int64_t pairs;              /* pairs of source pixels of an output pixel: (most + 1) / 2 */
    int32_t *bases;
    uint8_t *shuffles;
    int16_t *pair_values;
    int has_bytes;
    int8_t *byte_values;        /* in the memory of pair_values */
};

struct lanes;
struct dct_image;

/* The loops of one instruction set. */
struct stages {
    const char *name;
    /* JPEGs go through libjpeg-turbo's pipeline: its vector code is faster than these loops in
     * plain C */
    int leaves_jpeg;

    int has_windows;    /* resize_across uses tables of 64-byte windows; see struct weights */

    /* Huffman decoding of several segments at a time; see lanes.h. */
    void (*decode_lanes)(struct lanes *lanes);

    /* Inverse DCT of `count` blocks (int16 [count, 64], natural order) with a quantization table
     * (int16 [64], natural order), to 8 rows of 8 * count samples, `stride` bytes apart. Gives the
     * bytes of libjpeg-turbo's accurate integer transform (jidctint): its 16-bit arithmetic wraps
     * and saturates as in libjpeg-turbo's vector code. */
    void (*inverse_dct)(const int16_t *blocks, int64_t count, const int16_t *table, uint8_t *rows, int64_t stride);

    /* Decode blocks first ... first + count - 1 of a row of a `dct` blob (writers/dct/blob.h) to 8
     * rows of 8 * count samples, `stride` bytes apart. scratch: int16 [count, 64]. Returns 0 if the
     * row is damaged. */
    int (*read_dct_row)(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *scratch,
                        uint8_t *samples, int64_t stride);

    /* libjpeg's "fancy" upsampling (a triangle filter) of a row of chroma. `near` is the chroma row
     * nearest to the output row, `far` the second nearest. h2v1 (across) and h2v2 (across and down)
     * make 2 * count samples from count, and read one more on both sides. h1v2 (down) makes count
     * samples; `bias` is 1 if `far` is above `near`, 2 if it is below. */
    void (*upsample_h2v1)(const uint8_t *near, int64_t count, uint8_t *row);
    void (*upsample_h2v2)(const uint8_t *near, const uint8_t *far, int64_t count, uint8_t *row);
    void (*upsample_h1v2)(const uint8_t *near, const uint8_t *far, int bias, int64_t count, uint8_t *row);

    /* JFIF's YCbCr to RGB, rows of `count` pixels, with libjpeg's rounding. rgb: rows of R, G and
     * B. */
    void (*ycc_to_rgb)(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int64_t count, uint8_t *const rgb[3]);

    /* Convert `count` RGB pixels [count, 3] to rows of R, G and B, and back. `pixels` have no
     * padding. */
    void (*split_rgb)(const uint8_t *pixels, int64_t count, uint8_t *const rgb[3]);
    void (*join_rgb)(const uint8_t *const rgb[3], int64_t count, uint8_t *pixels);

    /* The resize. resize_across: a row of levels of 1 or 3 colors to int16 [num_colors, stride], in
     * units of 1 / 128 level; columns from weights->target to stride are undefined. resize_down:
     * levels [count] as weighted sums of `num_rows` such rows, whose weights are values [num_rows].
     * The vector code reads rows in pairs: if num_rows is odd, rows[num_rows] must be readable, and
     * values[num_rows] must be 0. */
    void (*resize_across)(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result, int64_t stride);
    void (*resize_down)(const int16_t *const *rows, const int16_t *values, int64_t num_rows, int64_t count, uint8_t *result);

    /* Convert `count` RGB pixels [count, 3] to the float16 bits of (level - shift[c]) * scale[c],
     * computed in float32. NULL if the instruction set has no conversion. */
    void (*to_float16)(const uint8_t *pixels, int64_t count, const float shift[3], const float scale[3], uint16_t *result);
};

enum isa { BEST_ISA = 0, SCALAR, PLAIN, SLOW_PDEP, AVX2, VBMI, NUM_ISAS };     /* as in kernel_c.py; the slowest first */

/* Return the loops of an instruction set, or NULL if this processor or this build does not have it.
 * BEST_ISA is the one that isa.c expects to be the fastest here. SCALAR and PLAIN use plain C; PLAIN
 * has leaves_jpeg. */
const struct stages *stages_of(enum isa isa);

/* ---- Loops that isa.c selects from ------------------------------------------------------------ */

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_AVX2 1
#define TARGET_AVX2 __attribute__((target("avx2,f16c,bmi,bmi2,popcnt,lzcnt,movbe")))
#define TARGET_VBMI \
    __attribute__((target("avx2,f16c,bmi,bmi2,popcnt,lzcnt,movbe,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,prefer-vector-width=512")))
#else
#define HAS_AVX2 0
#endif

#define DECLARE_STAGES(isa) \
    void decode_lanes_##isa(struct lanes *); \
    void inverse_dct_##isa(const int16_t *, int64_t, const int16_t *, uint8_t *, int64_t); \
    int read_dct_row_##isa(const struct dct_image *, int, int64_t, int64_t, int64_t, int16_t *, uint8_t *, int64_t); \
    void upsample_h2v1_##isa(const uint8_t *, int64_t, uint8_t *); \
    void upsample_h2v2_##isa(const uint8_t *, const uint8_t *, int64_t, uint8_t *); \
    void upsample_h1v2_##isa(const uint8_t *, const uint8_t *, int, int64_t, uint8_t *); \
    void ycc_to_rgb_##isa(const uint8_t *, const uint8_t *, const uint8_t *, int64_t, uint8_t *const[3]); \
    void split_rgb_##isa(const uint8_t *, int64_t, uint8_t *const[3]); \
    void join_rgb_##isa(const uint8_t *const[3], int64_t, uint8_t *); \
    void resize_across_##isa(const uint8_t *const[], int64_t, const struct weights *, int16_t *, int64_t); \
    void resize_down_##isa(const int16_t *const *, const int16_t *, int64_t, int64_t, uint8_t *); \
    void to_float16_##isa(const uint8_t *, int64_t, const float[3], const float[3], uint16_t *);

DECLARE_STAGES(scalar)
#if HAS_AVX2
DECLARE_STAGES(avx2)
void inverse_dct_vbmi(const int16_t *, int64_t, const int16_t *, uint8_t *, int64_t);
int read_dct_row_vbmi(const struct dct_image *, int, int64_t, int64_t, int64_t, int16_t *, uint8_t *, int64_t);
void upsample_h2v1_vbmi(const uint8_t *, int64_t, uint8_t *);
void upsample_h2v2_vbmi(const uint8_t *, const uint8_t *, int64_t, uint8_t *);
void ycc_to_rgb_vbmi(const uint8_t *, const uint8_t *, const uint8_t *, int64_t, uint8_t *const[3]);
void split_rgb_vbmi(const uint8_t *, int64_t, uint8_t *const[3]);
void join_rgb_vbmi(const uint8_t *const[3], int64_t, uint8_t *);
void resize_across_vbmi(const uint8_t *const[], int64_t, const struct weights *, int16_t *, int64_t);
void resize_down_vbmi(const int16_t *const *, const int16_t *, int64_t, int64_t, uint8_t *);
int read_dct_row_slow_pdep(const struct dct_image *, int, int64_t, int64_t, int64_t, int16_t *, uint8_t *, int64_t);
#endif

#endif
