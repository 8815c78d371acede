/* Decode `dct` blobs in AVX2: two blocks at a time, in registers, from packed bits to samples.
 * writers/dct/blob.h defines group, code, bitmap, run and DCT_WIDE.
 *
 * Steps:
 *     1. The values of a group, which are w bits each, are spread to one byte each by pdep. The
 *        mask has the lowest w bits of each byte that the bitmap marks. Its popcount is the number
 *        of bits that the group takes.
 *     2. 16 coefficients (two groups) of each block in one vector become signed.
 *     3. Shuffles move bytes from zigzag order to rows, which are widened to 16 bits.
 *     4. Rows are multiplied by the quantization table, and the inverse DCT (idct.h) gives samples.
 * Values of 11 bits (DCT_WIDE) do not fit a byte. They are added to the rows after step 3; few
 * blocks have any.
 *
 * pdep takes some 100 cycles on Zen and Zen 2. For these, step 1 moves each value to the top of a
 * 16-bit word by a multiplication, and to its byte by a shuffle (has_pdep = 0).
 *
 * Why reads stay in the run's memory, also for damaged blobs: the position is compared with the end
 * of the run before each pair of blocks. A block has at most DCT_MAX_BLOCK = 96 bytes, and a load
 * reads at most 16. So at most 2 * 96 + 16 bytes after the run are read, and DCT_AHEAD bytes are
 * readable.
 */

#include "../../writers/dct/blob.h"
#include "idct.h"

#if HAS_AVX2

#define EACH_BYTE 0x0101010101010101u

/* For each bitmap: a byte of ones for each bit that is set. */
#define E1(b) (((b) & 1 ? 0xFFull : 0) | ((b) & 2 ? 0xFFull << 8 : 0) | ((b) & 4 ? 0xFFull << 16 : 0) | \
               ((b) & 8 ? 0xFFull << 24 : 0) | ((b) & 16 ? 0xFFull << 32 : 0) | ((b) & 32 ? 0xFFull << 40 : 0) | \
               ((b) & 64 ? 0xFFull << 48 : 0) | ((b) & 128 ? 0xFFull << 56 : 0))
#define E4(b) E1(b), E1((b) + 1), E1((b) + 2), E1((b) + 3)
#define E16(b) E4(b), E4((b) + 4), E4((b) + 8), E4((b) + 12)
#define E64(b) E16(b), E16((b) + 16), E16((b) + 32), E16((b) + 48)
static const uint64_t EXPANDED[256] = {E64(0), E64(64), E64(128), E64(192)};

/* For each code, a mask with the lowest w bits of every byte; w: bits of a value. 0 for DCT_WIDE.
 * Codes of a block's first group are increased by 8, because its code 6 has another w. */
static const uint64_t VALUE_BITS[16] = {
    0, 0x01 * EACH_BYTE, 0x03 * EACH_BYTE, 0x07 * EACH_BYTE, 0x0F * EACH_BYTE, 0x1F * EACH_BYTE, 0x7F * EACH_BYTE, 0,
    0, 0x01 * EACH_BYTE, 0x03 * EACH_BYTE, 0x07 * EACH_BYTE, 0x0F * EACH_BYTE, 0x1F * EACH_BYTE, 0xFF * EACH_BYTE, 0};

/* 2^(w - 1) for each code (as in VALUE_BITS), which is subtracted from a stored value; 0 for
 * DCT_WIDE. */
static const uint8_t HALF_RANGE[16] = {0, 1, 2, 4, 8, 16, 64, 0, 0, 1, 2, 4, 8, 16, 128, 0};

/* How to extract 8 values of `width` bits from bytes, from bit `offset` of the first byte on.
 * `bytes`: shuffle that moves the two bytes of each value to a 16-bit word. `factors`: power of two
 * that moves the value to the top of its word. */
struct cut {
    uint8_t bytes[16];
    uint16_t factors[8];
};

#define BIT(o, w, j) ((o) + (j) * (w))
#define TWO(o, w, j) BIT(o, w, j) / 8, BIT(o, w, j) / 8 + 1
#define TOP(o, w, j) 1 << (16 - (w) - BIT(o, w, j) % 8)
#define CUT(o, w) {{TWO(o, w, 0), TWO(o, w, 1), TWO(o, w, 2), TWO(o, w, 3), TWO(o, w, 4), TWO(o, w, 5), TWO(o, w, 6), TWO(o, w, 7)}, \
                   {TOP(o, w, 0), TOP(o, w, 1), TOP(o, w, 2), TOP(o, w, 3), TOP(o, w, 4), TOP(o, w, 5), TOP(o, w, 6), TOP(o, w, 7)}}
#define CUTS_OF(w) {CUT(0, w), CUT(1, w), CUT(2, w), CUT(3, w), CUT(4, w), CUT(5, w), CUT(6, w), CUT(7, w)}
static const struct cut CUTS[9][8] = {      /* [width][offset] */
    {{{0}, {0}}}, CUTS_OF(1), CUTS_OF(2), CUTS_OF(3), CUTS_OF(4), CUTS_OF(5), CUTS_OF(6), CUTS_OF(7), CUTS_OF(8)};

/* Bits of a value for each code, as in VALUE_BITS; 0 for DCT_WIDE. */
static const uint8_t WIDTHS[16] = {0, 1, 2, 3, 4, 5, 7, 0, 0, 1, 2, 3, 4, 5, 8, 0};

/* For each bitmap, a shuffle: the number of the value that belongs in each byte; 0x80 gives 0. */
#define P1(b, k) ((b) >> (k) & 1 ? __builtin_popcount((b) & ((1 << (k)) - 1)) : 0x80)
#define P8(b) {P1(b, 0), P1(b, 1), P1(b, 2), P1(b, 3), P1(b, 4), P1(b, 5), P1(b, 6), P1(b, 7)}
#define P32(b) P8(b), P8((b) + 1), P8((b) + 2), P8((b) + 3)
#define P128(b) P32(b), P32((b) + 4), P32((b) + 8), P32((b) + 12)
#define P512(b) P128(b), P128((b) + 16), P128((b) + 32), P128((b) + 48)
static const uint8_t PLACES[256][8] = {P512(0), P512(64), P512(128), P512(192)};

#define _ -1
/* Shuffles from zigzag order to rows: [rows 2 j and 2 j + 1][coefficients 16 i to 16 i + 15]. A
 * byte is the number of a coefficient among these 16; -1 gives 0. Results of the four i are
 * combined by or. */
static const int8_t TO_ROWS[4][4][16] = {
    {{0, 1, 5, 6, 14, 15, _, _, 2, 4, 7, 13, _, _, _, _},
     {_, _, _, _, _, _, 11, 12, _, _, _, _, 0, 10, 13, _},
     {_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 10},
     {_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _}},
    {{3, 8, 12, _, _, _, _, _, 9, 11, _, _, _, _, _, _},
     {_, _, _, 1, 9, 14, _, _, _, _, 2, 8, 15, _, _, _},
     {_, _, _, _, _, _, 9, 11, _, _, _, _, _, 8, 12, _},
     {_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, 5}},
    {{10, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _},
     {_, 3, 7, _, _, _, _, _, 4, 6, _, _, _, _, _, _},
     {_, _, _, 0, 7, 13, _, _, _, _, 1, 6, 14, _, _, _},
     {_, _, _, _, _, _, 4, 6, _, _, _, _, _, 3, 7, 12}},
    {{_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _},
     {5, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _},
     {_, 2, 5, 15, _, _, _, _, 3, 4, _, _, _, _, _, _},
     {_, _, _, _, 2, 8, 11, 13, _, _, 0, 1, 9, 10, 14, 15}},
};
#undef _

INLINE_AVX2 uint64_t load_64(const uint8_t *from) {
    uint64_t word;
    memcpy(&word, from, 8);
    return word;
}

/* A block after step 1. */
struct unpacked {
    /* Stored values of each group, a byte each. 0 if a coefficient is 0, or for DCT_WIDE. */
    uint64_t groups[8];
    /* A byte for each group. The code of the first group is increased by 8. */
    uint64_t codes, bitmaps;
    const uint8_t *values;      /* start of the packed values */
    /* Bits of the packed values, without those of DCT_WIDE, which come after them. */
    int64_t bits;
    uint32_t wide;              /* bit 3 g is set if group g has the code DCT_WIDE */
};

/* Spread codes of 3 bits to one byte each. */
INLINE_AVX2 uint64_t spread_codes(uint32_t codes, int has_pdep) {
    if (has_pdep)
        return _pdep_u64(codes, 0x07 * EACH_BYTE);
    uint64_t spread = (codes & 0xFFF) | (uint64_t)(codes & 0xFFF000) << 20;
    spread = (spread & 0x0000003F0000003F) | (spread & 0x00000FC000000FC0) << 10;
    return (spread & 0x0007000700070007) | (spread & 0x0038003800380038) << 5;
}

/* Move the first bytes of `bytes` to the places whose byte in `present` is 0x80; others become
 * 0. */
INLINE_AVX2 uint64_t spread_bytes(uint64_t bytes, uint64_t present, int has_pdep) {
    if (has_pdep)
        return _pdep_u64(bytes, (present >> 7) * 0xFF);
    unsigned bitmap = (unsigned)((present >> 7) * 0x0102040810204080u >> 56);      /* a bit for each byte */
    __m128i places = _mm_loadl_epi64((const __m128i *)PLACES[bitmap]);
    return (uint64_t)_mm_cvtsi128_si64(_mm_shuffle_epi8(_mm_cvtsi64_si128((long long)bytes), places));
}

/* Return a group's stored values, each in the byte of its coefficient. The values begin `*bit` bits
 * after `from`; their number of bits is added to `*bit`. */
INLINE_AVX2 uint64_t spread_values(const uint8_t *from, int64_t *bit, unsigned bitmap, unsigned code, int has_pdep) {
    const uint8_t *at = from + (*bit >> 3);
    if (has_pdep) {
        uint64_t mask = EXPANDED[bitmap] & VALUE_BITS[code];
        uint64_t values = _pdep_u64(load_64(at) >> (*bit & 7), mask);
        *bit += _mm_popcnt_u64(mask);
        return values;
    }
    int width = WIDTHS[code];
    const struct cut *cut = &CUTS[width][*bit & 7];
    __m128i words = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)at), _mm_loadu_si128((const __m128i *)cut->bytes));
    words = _mm_mullo_epi16(words, _mm_loadu_si128((const __m128i *)cut->factors));
    words = _mm_srl_epi16(words, _mm_cvtsi32_si128(16 - width));
    __m128i places = _mm_loadl_epi64((const __m128i *)PLACES[bitmap]);
    *bit += width * _mm_popcnt_u64(bitmap);
    return (uint64_t)_mm_cvtsi128_si64(_mm_shuffle_epi8(_mm_packus_epi16(words, words), places));
}

/* Step 1 for a block at `from`. Returns the start of the next block. `groups` (of the run) and
 * `has_pdep` are compile-time constants. */
INLINE_AVX2 const uint8_t *unpack(const uint8_t *from, uint32_t codes, int groups, int has_pdep, struct unpacked *block) {
    uint64_t spread = spread_codes(codes, has_pdep);
    /* 0x80 in bytes that are not 0 */
    uint64_t present = (spread + 0x7F * EACH_BYTE) & 0x80 * EACH_BYTE;
    uint64_t bitmaps = spread_bytes(load_64(from), present, has_pdep);
    block->codes = spread | 8;
    block->bitmaps = bitmaps;
    block->wide = codes & codes >> 1 & codes >> 2 & 0x249249;
    from += _mm_popcnt_u64(present);
    block->values = from;
    int64_t bit = 0;
    for (int g = 0; g < groups; g++)
        block->groups[g] = spread_values(from, &bit, bitmaps >> 8 * g & 0xFF, block->codes >> 8 * g & 0xFF, has_pdep);
    block->bits = bit;
    if (__builtin_expect(block->wide != 0, 0))
        for (int g = 0; g < groups; g++)
            if (block->wide >> 3 * g & 1)
                bit += dct_bits_of(g, DCT_WIDE) * _mm_popcnt_u64(bitmaps >> 8 * g & 0xFF);
    return from + ((bit + 7) >> 3);
}

/* Load 16 bytes to both halves of a vector. */
INLINE_AVX2 __m256i both(const void *from) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from));
}

/* Step 2: signed values of groups 2 i and 2 i + 1 of two blocks, the first block in the low half.
 * `halves`: HALF_RANGE of each group. A stored value less 2^(w - 1) is increased by 1 if it is not
 * negative, since 0 is not stored. Places that the bitmaps do not mark become 0. */
INLINE_AVX2 __m256i signed_values(const struct unpacked *a, const struct unpacked *b, int i, __m256i halves, __m256i bitmaps) {
    const __m256i bits = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i spread = _mm256_broadcastsi128_si256(
        _mm_set_epi64x((long long)((2 * i + 1) * EACH_BYTE), (long long)(2 * i * EACH_BYTE)));
    __m256i values = _mm256_set_epi64x((long long)b->groups[2 * i + 1], (long long)b->groups[2 * i],
                                       (long long)a->groups[2 * i + 1], (long long)a->groups[2 * i]);
    values = _mm256_sub_epi8(values, _mm256_shuffle_epi8(halves, spread));
    values = _mm256_sub_epi8(values, _mm256_cmpgt_epi8(values, _mm256_set1_epi8(-1)));
    __m256i present = _mm256_and_si256(_mm256_shuffle_epi8(bitmaps, spread), bits);
    return _mm256_and_si256(values, _mm256_cmpeq_epi8(present, bits));
}

/* Write a block's values of DCT_WIDE groups to `rows`, which are zero: columns 0 to 7 for the first
 * block, 8 to 15 for the second. The caller adds them to the rows, in whose places signed_values
 * has left a 1 (from a stored 0); so they are written less 1. */
__attribute__((noinline, cold))
static void put_wide(const struct unpacked *block, int16_t rows[8][16], int is_second) {
    int64_t bit = block->bits;
    for (uint32_t wide = block->wide; wide != 0; wide &= wide - 1) {
        int group = __builtin_ctz(wide) / DCT_CODE_BITS;
        for (unsigned present = block->bitmaps >> 8 * group & 0xFF; present != 0; present &= present - 1, bit += 11) {
            int value = (int)(dct_u32(block->values + bit / 8) >> bit % 8 & 0x7FF) - 0x400;
            int place = DCT_ZIGZAG[8 * group + __builtin_ctz(present)];
            if (place > 0)
                rows[place / 8][8 * is_second + place % 8] = (int16_t)(value - (value < 0));
        }
    }
}

/* Steps 2 to 4 for two blocks. */
INLINE_AVX2 void transform(const struct unpacked *a, const struct unpacked *b, int16_t dc_a, int16_t dc_b, int groups,
                           const __m256i multipliers[8], const int16_t *table, uint8_t *samples, int64_t stride) {
    /* Written first and read last: a 32-byte load right after narrower stores to its bytes would
     * stall. */
    int16_t wide[8][16];
    if (__builtin_expect(a->wide | b->wide, 0)) {
        memset(wide, 0, sizeof wide);
        put_wide(a, wide, 0);
        put_wide(b, wide, 1);
    }
    __m256i codes = _mm256_set_epi64x(0, (long long)b->codes, 0, (long long)a->codes);
    __m256i bitmaps = _mm256_set_epi64x(0, (long long)b->bitmaps, 0, (long long)a->bitmaps);
    __m256i halves = _mm256_shuffle_epi8(both(HALF_RANGE), codes);
    __m256i zigzag[4], r[8];
    for (int i = 0; i < groups / 2; i++)
        zigzag[i] = signed_values(a, b, i, halves, bitmaps);
    for (int j = 0; j < 4; j++) {
        /* Bit i is set if TO_ROWS[j][i] moves coefficients. */
        static const uint8_t USED[4] = {0x7, 0xF, 0xF, 0xE};
        __m256i two_rows = _mm256_setzero_si256();
        for (int i = 0; i < groups / 2; i++)
            if (USED[j] >> i & 1)
                two_rows = _mm256_or_si256(two_rows, _mm256_shuffle_epi8(zigzag[i], both(TO_ROWS[j][i])));
        r[2 * j] = _mm256_srai_epi16(_mm256_unpacklo_epi8(two_rows, two_rows), 8);
        r[2 * j + 1] = _mm256_srai_epi16(_mm256_unpackhi_epi8(two_rows, two_rows), 8);
    }
    const __m256i dc_place = _mm256_set_epi64x(0, 0xFFFF, 0, 0xFFFF);
    r[0] = _mm256_or_si256(_mm256_andnot_si256(dc_place, r[0]), _mm256_set_epi64x(0, (uint16_t)dc_b, 0, (uint16_t)dc_a));
    if (__builtin_expect(a->wide | b->wide, 0))
        for (int y = 0; y < 8; y++)
            r[y] = _mm256_add_epi16(r[y], _mm256_loadu_si256((const __m256i *)wide[y]));
    __m256i first_rows = _mm256_mullo_epi16(r[0], multipliers[0]);
    if (__builtin_expect(is_beyond_shift(first_rows), 0)) {
        int16_t blocks[2][64];
        for (int y = 0; y < 8; y++) {
            _mm_storeu_si128((__m128i *)(blocks[0] + 8 * y), _mm256_castsi256_si128(r[y]));
            _mm_storeu_si128((__m128i *)(blocks[1] + 8 * y), _mm256_extracti128_si256(r[y], 1));
        }
        inverse_dct_scalar(blocks[0], 2, table, samples, stride);
        return;
    }
    r[0] = first_rows;
    for (int y = 1; y < 8; y++)
        r[y] = _mm256_mullo_epi16(r[y], multipliers[y]);
    transform_pair(r, samples, stride);
}

/* Decode blocks first ... last of a run to samples. Returns 0 if the run is damaged. If the number
 * of blocks is odd, the last one is written twice, to 8 bytes more of each row. */
INLINE_AVX2 int read_run(const struct dct_run *found, int64_t first, int64_t last, int groups, int has_pdep,
                         const __m256i multipliers[8], const int16_t *table, uint8_t *samples, int64_t stride) {
    /* A local copy stays in registers, since no store can change it. */
    const struct dct_run copy = *found, *run = &copy;
    const uint8_t *at = run->blocks;
    struct unpacked a, b;
    for (int64_t i = 0; i < first; i++) {
        if (at > run->end)
            return 0;
        at = unpack(at, dct_codes(run, i), groups, has_pdep, &a);
    }
    for (int64_t i = first; i <= last; i += 2, samples += 16) {
        if (at > run->end)
            return 0;
        at = unpack(at, dct_codes(run, i), groups, has_pdep, &a);
        int16_t dc_a = dct_dc(run, i), dc_b = dc_a;
        if (i < last) {
            at = unpack(at, dct_codes(run, i + 1), groups, has_pdep, &b);
            dc_b = dct_dc(run, i + 1);
        } else {
            b = a;
        }
        transform(&a, &b, dc_a, dc_b, groups, multipliers, table, samples, stride);
    }
    return last == run->num_blocks - 1 ? at == run->end : at <= run->end;
}

INLINE_AVX2 int read_row(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int has_pdep,
                         uint8_t *samples, int64_t stride) {
    const struct dct_component *part = &image->components[component];
    const int16_t *table = part->table;
    uint8_t copy[DCT_MAX_RUN + DCT_AHEAD];
    __m256i multipliers[8];
    for (int y = 0; y < 8; y++)
        multipliers[y] = both(table + 8 * y);
    for (int64_t number = first / DCT_RUN; number <= (first + count - 1) / DCT_RUN; number++) {
        struct dct_run run;
        if (!find_run(image, part, row, number, &run, copy))
            return 0;
        int64_t begin = number * DCT_RUN, from = first > begin ? first - begin : 0;
        int64_t to = first + count - 1 - begin;
        to = to < run.num_blocks - 1 ? to : run.num_blocks - 1;
        uint8_t *at = samples + 8 * (begin + from - first);
        int is_whole = run.groups <= 2   ? read_run(&run, from, to, 2, has_pdep, multipliers, table, at, stride)
                       : run.groups <= 4 ? read_run(&run, from, to, 4, has_pdep, multipliers, table, at, stride)
                       : run.groups <= 6 ? read_run(&run, from, to, 6, has_pdep, multipliers, table, at, stride)
                                         : read_run(&run, from, to, 8, has_pdep, multipliers, table, at, stride);
        if (!is_whole)
            return 0;
    }
    return 1;
}

TARGET_AVX2
int read_dct_row_avx2(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *scratch,
                      uint8_t *samples, int64_t stride) {
    (void)scratch;
    return read_row(image, component, row, first, count, 1, samples, stride);
}

/* The same code, compiled for the 32 registers of AVX-512. */
TARGET_VBMI
int read_dct_row_vbmi(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *scratch,
                      uint8_t *samples, int64_t stride) {
    (void)scratch;
    return read_row(image, component, row, first, count, 1, samples, stride);
}

TARGET_AVX2
int read_dct_row_slow_pdep(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count,
                           int16_t *scratch, uint8_t *samples, int64_t stride) {
    (void)scratch;
    return read_row(image, component, row, first, count, 0, samples, stride);
}
#endif
