/* The inner loops of the C kernel, and the instruction sets that they are written for.
 *
 * Each loop has a scalar version in plain C, which is the definition, and versions in intrinsics
 * that give the same bytes. `stages_of` chooses one set of versions at run time. Rows have
 * ROW_PADDING bytes before and after them: a loop may read and write there, and the content there
 * is undefined.
 */

#ifndef HARNESS_STAGES_H
#define HARNESS_STAGES_H

#include <stddef.h>
#include <stdint.h>

enum { ROW_PADDING = 64 };
enum { ROUND_ACROSS = 7, ROUND_DOWN = 21, WEIGHT_BITS = 14 };     /* 14 + 14 - 7 - 21 = 0: levels in, levels out */
enum { MOST_ACROSS = 255 << (WEIGHT_BITS - ROUND_ACROSS) };     /* of a row that was resized across; the least is 0 */

/* The weights along one axis; resize.c has the equations. The weights of an output pixel sum to 1
 * << WEIGHT_BITS. */
struct weights {
    int32_t *starts, *counts;   /* [target] of each output pixel: its first source pixel, and how many it needs */
    int16_t *values;            /* [target, stride], 0 after `counts` */
    int64_t target, stride;     /* stride: a multiple of 16 */
    int64_t most;               /* of `counts` */
    int has_negative;           /* weights, so that sums may be out of range */
    /* The same for vector code, if groups of 4 output pixels need at most 16 source pixels (is_narrow). For each 16 output pixels
     * and each pair of their source pixels, the groups 0 and 2, then 1 and 3: */
    int is_narrow;
    int64_t pairs;              /* of source pixels that an output pixel needs: (most + 1) / 2 */
    int32_t *bases;             /* [target / 16, 4] of each group: the first of its 16 source pixels */
    uint8_t *shuffles;          /* [target / 16, pairs, 2, 32] which of the 16 bytes, as words */
    int16_t *pair_values;       /* [target / 16, pairs, 2, 16] */
    /* With has_bytes, weights are split into bytes, a weight = 128 * high + low, if output pixels need at most 3 source pixels. For
     * each 16 output pixels (32 with stages->has_windows) in groups of 8 (32) that need at most 16 (64) source pixels: bases
     * [groups]; shuffles [pairs, 2 bytes of each output pixel]; byte_values [pairs, 2, likewise]: high and low. */
    int has_bytes;
    int8_t *byte_values;        /* in the memory of pair_values */
    /* With stages->has_windows, is_narrow means that groups of 16 output pixels need at most 64 source pixels, and the tables are
     * bases [target / 16], an even number of them, shuffles [target / 16, pairs, 64] with an undefined byte after each, and pair_values likewise. */
};

struct lanes;
struct dct_image;

struct stages {
    const char *name;
    int leaves_jpeg;    /* JPEGs go through libjpeg-turbo's pipeline, whose vector code beats these loops in plain C */

    int has_windows;    /* resize_across takes tables of 64-byte windows */

    /* Huffman decoding of several segments at a time; see lanes.h. */
    void (*decode_lanes)(struct lanes *lanes);

    /* Inverse DCT of `count` blocks (int16 [count, 64], natural order) with a quantization table (int16 [64], natural order), to
     * 8 rows of 8 * count samples. Exactly libjpeg-turbo's accurate integer transform (jidctint), in 16-bit arithmetic that
     * wraps and saturates as its vector versions do. */
    void (*inverse_dct)(const int16_t *blocks, int64_t count, const int16_t *table, uint8_t *rows, int64_t stride);

    /* Blocks first ... first + count - 1 of a row of a `dct` blob (writers/dct/blob.h) to 8 rows of samples, by the inverse DCT.
     * scratch: int16 [count, 64]. Returns 0 if the row is damaged. */
    int (*read_dct_row)(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *scratch,
                        uint8_t *samples, int64_t stride);

    /* libjpeg's "fancy" (triangle) upsampling of a row of chroma: 2 * count samples from count, of which the neighbors on both
     * sides are read, too. h2v1: across. h2v2: across and down, `far` is the row on the other side of the output row. h1v2: down;
     * `bias` is 1 if `far` is above, 2 if it is below. */
    void (*upsample_h2v1)(const uint8_t *near, int64_t count, uint8_t *row);
    void (*upsample_h2v2)(const uint8_t *near, const uint8_t *far, int64_t count, uint8_t *row);
    void (*upsample_h1v2)(const uint8_t *near, const uint8_t *far, int bias, int64_t count, uint8_t *row);

    /* JFIF's YCbCr to RGB, rows of `count` pixels, as libjpeg rounds it. rgb: three rows. */
    void (*ycc_to_rgb)(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int64_t count, uint8_t *const rgb[3]);

    /* A row of RGB pixels to three rows, and back. */
    void (*split_rgb)(const uint8_t *pixels, int64_t count, uint8_t *const rgb[3]);
    void (*join_rgb)(const uint8_t *const rgb[3], int64_t count, uint8_t *pixels);

    /* The resize: rows of levels, of 1 or 3 colors, to int16 [colors, stride] in units of 1 / 128 level; then weighted sums of
     * `count` columns of such rows to levels. Columns from target to stride are undefined. */
    void (*resize_across)(const uint8_t *const rows[], int64_t num_colors, const struct weights *weights, int16_t *result, int64_t stride);
    void (*resize_down)(const int16_t *const *rows, const int16_t *values, int64_t num_rows, int64_t count, uint8_t *result);

    /* float16 bits of (level - shift[c]) * scale[c] in float32 for `count` RGB pixels; NULL: this set has no conversion. */
    void (*to_float16)(const uint8_t *pixels, int64_t count, const float shift[3], const float scale[3], uint16_t *result);
};

enum isa { BEST_ISA = 0, SCALAR, PLAIN, SLOW_PDEP, AVX2, VBMI, NUM_ISAS };     /* as in kernel_c.py; the slowest first */

/* The loops of an instruction set; NULL if this processor, or this build, does not have it.
 * BEST_ISA: the fastest there is. */
const struct stages *stages_of(enum isa isa);

/* ---- What isa.c puts together ------------------------------------------------------------------------------------------- */

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
