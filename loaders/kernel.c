/* Decode, crop, resize and flip images into a batch: what loaders/kernel_numba.py does, to the same pixels, faster.
 *
 * libjpeg-turbo does the inverse transform, the upsampling and the colours. Its Huffman decoder, which takes most of the time,
 * is replaced by one of ours for ordinary (baseline, interleaved) images: that one begins at any segment between restart
 * markers, and so decodes only what is under the crop where an index says where the segments lie (writers/restart.py); and
 * it looks up code, run and size of a value at once. Whatever it meets that is not as it should be, it leaves: libjpeg-turbo
 * then decodes the whole image, and what it says about it counts.
 *
 * Sums are in float, in one fixed order and without fused multiply-add, so that all processors give the same pixels.
 */

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#if !defined(FOR_EACH_PROCESSOR) && defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { JPEG = 0 };
enum { MARGIN = 2 };        /* pixels beside the crop that the colours of its own pixels are interpolated from */
enum { LEAST_WIDTH = 5 };   /* pixels: libjpeg does not interpolate colours in an image that is narrower */
enum { MAX_HEADER = 4096, FOOTER_SIZE = 28, INDEX_VERSION = 1 };     /* as in writers/restart.py */
enum { PADDING = 512 };     /* bytes behind a segment: more than the codes of one block, which are not looked at singly */

struct box {
    int64_t left, top, width, height;
};

/* ---- Huffman decoding ------------------------------------------------------------------------------------------------ */

enum { LOOKUP_BITS = 10, MAX_DC_SIZE = 11, MAX_AC_SIZE = 10 };      /* sizes: of baseline images of 8 bits */

struct code {
    uint8_t length;     /* of the code, 0 where it is longer than LOOKUP_BITS */
    uint8_t total;      /* with the bits of the value behind it */
    uint8_t run;        /* zeros before the value */
    uint8_t shift;      /* 64 less the value's bits; 64: no value */
    int32_t lowest;     /* value: those that begin with a 0 bit count from here */
};

static struct code make_code(int length, int run, int size) {
    return (struct code){length, length + size, run, 64 - size, 1 - (1 << size)};
}

struct huffman {
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

/* Coded data between two markers, and the blocks in it. */
struct entropy {
    const uint8_t *jpeg, *jpeg_end;     /* begin of the blob; end of what may be coded data */
    const uint32_t *segments;           /* where to go, one after the other; NULL: one lies behind the other */
    int64_t num_segments, segment;      /* in the image or, where an index says where they are, under the crop; next one */
    int64_t interval;                   /* MCUs in a segment */
    int64_t mcus_left, mcus_done;       /* in this one; in all */
    size_t position;                    /* behind the marker at the end of this one */
    uint8_t *clean;                     /* this segment without the zeros stuffed behind each 0xFF */
    size_t clean_size;
    struct bits bits;
    int predicted[MAX_COMPS_IN_SCAN];
    struct huffman dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    struct code long_code;              /* the last one that was too long for the lookup */
    jmp_buf *failed;
};

static const uint8_t ZIGZAG[64 + 16] = {    /* the last 16: a run beyond the end of a block */
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

/* Returns 0 for a table that no baseline image has. */
static int make_huffman(const JHUFF_TBL *table, struct huffman *huffman, int is_dc) {
    uint32_t code = 0;
    int symbol = 0;

    if (table == NULL)
        return 0;
    huffman->symbols = table->huffval;
    memset(huffman->lookup, 0, sizeof huffman->lookup);
    for (int length = 1; length <= 16; length++) {
        huffman->offset[length] = symbol - (int32_t)code;
        for (int i = 0; i < table->bits[length]; i++, symbol++, code++) {
            int run = is_dc ? 0 : table->huffval[symbol] >> 4;
            int size = is_dc ? table->huffval[symbol] : table->huffval[symbol] & 15;
            if (symbol > 255 || code >> length || size > (is_dc ? MAX_DC_SIZE : MAX_AC_SIZE))
                return 0;
            if (length <= LOOKUP_BITS) {
                struct code entry = make_code(length, run, size);
                int spread = LOOKUP_BITS - length;
                for (uint32_t k = code << spread; k < (code + 1) << spread; k++)
                    huffman->lookup[k] = entry;
            }
        }
        huffman->first_beyond[length] = code << (16 - length);
        code <<= 1;
    }
    return 1;
}

INLINE void refill(struct bits *bits) {
    uint64_t word;
    memcpy(&word, bits->next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    bits->word |= word >> bits->count;
    bits->next += (63 - bits->count) >> 3;
    bits->count |= 56;
}

__attribute__((noinline, cold)) static void fail(const struct entropy *entropy) {
    longjmp(*entropy->failed, 1);
}

/* A code longer than LOOKUP_BITS at the begin of `word`. Out of the way: it is rare, and would take registers. */
__attribute__((noinline, cold))
static const struct code *long_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc) {
    uint32_t code = word >> 48;
    int length = LOOKUP_BITS + 1;
    while (length <= 16 && code >= huffman->first_beyond[length])
        length++;
    if (length > 16)
        fail(entropy);
    int symbol = huffman->symbols[(int32_t)(code >> (16 - length)) + huffman->offset[length]];
    int size = is_dc ? symbol : symbol & 15;
    entropy->long_code = make_code(length, is_dc ? 0 : symbol >> 4, size);
    return &entropy->long_code;
}

INLINE const struct code *next_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc) {
    const struct code *code = &huffman->lookup[word >> (64 - LOOKUP_BITS)];
    return __builtin_expect(code->length == 0, 0) ? long_code(entropy, huffman, word, is_dc) : code;
}

/* The value behind the code, of at least one bit. Without a branch, which would be taken half of the time. */
INLINE int value_of(const struct code *code, uint64_t word) {
    uint64_t behind = word << code->length;
    int begins_with_0 = (int)((int64_t)~behind >> 63);      /* 0 or -1 */
    return (int)(behind >> code->shift) + (begins_with_0 & code->lowest);
}

INLINE void drop(struct bits *bits, int count) {
    bits->word <<= count;
    bits->count -= count;
}

/* Fill `block`, which is all zeros, with a block's coefficients. Two codes and their values fit the bits of one refill. */
INLINE void decode_block(struct entropy *entropy, struct bits *bits, const struct huffman *dc, const struct huffman *ac,
                         int *predicted, JCOEF *block) {
    refill(bits);
    const struct code *code = next_code(entropy, dc, bits->word, 1);
    if (code->shift < 64)
        *predicted += value_of(code, bits->word);
    drop(bits, code->total);
    block[0] = (JCOEF)*predicted;

    int k = 1;
    for (int turn = 0; k < 64; k++, turn ^= 1) {
        if (turn)
            refill(bits);
        code = next_code(entropy, ac, bits->word, 0);
        k += code->run;
        if (code->shift < 64) {
            block[ZIGZAG[k]] = (JCOEF)value_of(code, bits->word);
            drop(bits, code->total);
        } else {
            drop(bits, code->total);
            if (code->run != 15)
                return;     /* the end of the block */
        }
    }
    if (k > 64)
        fail(entropy);
}

/* Copy the next segment to entropy->clean, and look whether it ends in the marker that it should end in. */
static void open_segment(struct entropy *entropy) {
    if (entropy->segment >= entropy->num_segments)
        fail(entropy);
    const uint8_t *from = entropy->jpeg + (entropy->segments ? entropy->segments[entropy->segment] : entropy->position);
    uint8_t *to = entropy->clean;
    while (1) {
        const uint8_t *escape = from < entropy->jpeg_end ? memchr(from, 0xFF, entropy->jpeg_end - from) : NULL;
        if (escape == NULL || escape + 1 >= entropy->jpeg_end)
            fail(entropy);
        memcpy(to, from, escape - from);
        to += escape - from;
        from = escape + 2;
        if (escape[1] != 0) {
            int64_t number = entropy->segment;
            int expected = number == entropy->num_segments - 1 ? JPEG_EOI : JPEG_RST0 + number % 8;
            if (entropy->segments == NULL && escape[1] != expected)     /* else read_index has looked */
                fail(entropy);
            break;
        }
        *to++ = 0xFF;
    }
    entropy->position = from - entropy->jpeg;
    entropy->segment++;
    entropy->mcus_left = entropy->interval;
    entropy->clean_size = to - entropy->clean;
    entropy->bits = (struct bits){0, 0, entropy->clean};
    memset(to, 0, PADDING);
    memset(entropy->predicted, 0, sizeof entropy->predicted);
}

/* All bits are used, but for less than a byte of padding. */
static void close_segment(const struct entropy *entropy) {
    int64_t used = 8 * (entropy->bits.next - entropy->clean) - entropy->bits.count;
    int64_t left = 8 * (int64_t)entropy->clean_size - used;
    if (left < 0 || left > 7)
        fail(entropy);
}

/* In place of libjpeg's own: one MCU's blocks, which come as zeros. (Not FOR_EACH_PROCESSOR: that makes it slower.) */
static boolean decode_mcu(j_decompress_ptr codec, JBLOCKROW *blocks) {
    struct entropy *entropy = codec->client_data;
    if (entropy->mcus_left == 0)
        open_segment(entropy);
    struct bits bits = entropy->bits;
    for (int b = 0; b < codec->blocks_in_MCU; b++) {
        int c = codec->MCU_membership[b];
        const jpeg_component_info *component = codec->cur_comp_info[c];
        if (bits.next > entropy->clean + entropy->clean_size + 8)
            fail(entropy);
        decode_block(entropy, &bits, &entropy->dc[component->dc_tbl_no], &entropy->ac[component->ac_tbl_no],
                     &entropy->predicted[c], blocks[b][0]);
    }
    entropy->bits = bits;
    entropy->mcus_done++;
    if (--entropy->mcus_left == 0)
        close_segment(entropy);
    return TRUE;
}

/* ---- The part of a JPEG under a box ------------------------------------------------------------------------------------ */

struct decoder {
    struct jpeg_decompress_struct codec;
    struct jpeg_error_mgr errors;
    jmp_buf failed;
    struct entropy entropy;
    uint8_t header[MAX_HEADER];
    uint32_t *segments;         /* for as many as the longest blob can have */
    uint8_t *pixels;            /* [height, width, 3] of the largest image */
    uint32_t crc[256];
};

struct part {
    int64_t left, top, width, height;   /* pixels of the image */
};

static uint32_t u16(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8;
}

static uint32_t u32(const uint8_t *at) {
    return u16(at) | u16(at + 2) << 16;
}

static uint32_t crc32_of(const uint32_t *table, uint32_t crc, const uint8_t *bytes, int64_t size) {
    for (int64_t i = 0; i < size; i++)
        crc = table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
    return crc;
}

/* Read the index behind the image: the part of the image that has to be decoded for the box, its header to
 * decoder->header, where its segments begin to decoder->segments, both into decoder->entropy. Returns the size of the
 * header; 0 where there is no index that fits blob and image. As _cut_out in kernel_numba.py. */
static int64_t read_index(struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height,
                          const struct box *box, struct part *part) {
    int64_t footer = size - FOOTER_SIZE;
    if (footer < 0 || memcmp(blob + size - 8, "hrst\r\nix", 8) != 0)
        return 0;
    const uint8_t *at = blob + footer;
    int64_t num_segments = u32(at), frame = u32(at + 4), scan = u32(at + 8), interval = u16(at + 12);
    int64_t table = footer - 2 * num_segments;
    if (u16(at + 14) != INDEX_VERSION || table < scan || scan > MAX_HEADER || interval == 0 || frame + 10 > scan)
        return 0;
    uint32_t crc = crc32_of(decoder->crc, 0xFFFFFFFF, blob, scan);
    if (~crc32_of(decoder->crc, crc, blob + table, footer + 16 - table) != u32(at + 16))
        return 0;

    /* The frame: FF C0, u16 length, 8, u16 height, u16 width, components; of each an id, factors and a table's number. */
    at = blob + frame;
    int num_components = at[9], across = 1, down = 1;
    if ((num_components != 1 && num_components != 3) || frame + 10 + 3 * num_components > scan ||
        256 * at[5] + at[6] != height || 256 * at[7] + at[8] != width)
        return 0;
    for (int k = 0; num_components == 3 && k < 3; k++) {    /* a scan of one component has MCUs of one block */
        int factors = at[11 + 3 * k];
        across = factors >> 4 > across ? factors >> 4 : across;
        down = (factors & 15) > down ? factors & 15 : down;
    }
    int64_t mcus_per_row = (width + 8 * across - 1) / (8 * across), num_rows = (height + 8 * down - 1) / (8 * down);
    if (mcus_per_row % interval != 0 || num_segments * interval != mcus_per_row * num_rows)
        return 0;

    int64_t segment_width = 8 * across * interval, segment_height = 8 * down, per_row = mcus_per_row / interval;
    int64_t first = box->left > MARGIN ? (box->left - MARGIN) / segment_width : 0;
    int64_t last = (box->left + box->width + MARGIN - 1) / segment_width;
    int64_t first_row = box->top > MARGIN ? (box->top - MARGIN) / segment_height : 0;
    int64_t last_row = (box->top + box->height + MARGIN - 1) / segment_height;
    last = last < per_row ? last : per_row - 1;
    last_row = last_row < num_rows ? last_row : num_rows - 1;
    int64_t right = (last + 1) * segment_width < width ? (last + 1) * segment_width : width;
    int64_t bottom = (last_row + 1) * segment_height < height ? (last_row + 1) * segment_height : height;
    if (first > 0 && right - first * segment_width < LEAST_WIDTH)
        first--;
    *part = (struct part){first * segment_width, first_row * segment_height, right - first * segment_width,
                          bottom - first_row * segment_height};

    int64_t begin = scan, found = 0;
    for (int64_t number = 0; number < per_row * (last_row + 1); number++) {
        int64_t end = begin + u16(blob + table + 2 * number), column = number % per_row;
        if (number / per_row >= first_row && column >= first && column <= last) {
            int marker = number == num_segments - 1 ? JPEG_EOI : JPEG_RST0 + number % 8;
            if (end < begin + 2 || end > table || blob[end - 2] != 0xFF || blob[end - 1] != marker)
                return 0;
            decoder->segments[found++] = begin;
        }
        begin = end;
    }
    memcpy(decoder->header, blob, scan);
    uint8_t *sizes = decoder->header + frame + 5;
    sizes[0] = part->height >> 8, sizes[1] = part->height & 255, sizes[2] = part->width >> 8, sizes[3] = part->width & 255;
    decoder->entropy.jpeg_end = blob + table;
    decoder->entropy.segments = decoder->segments;
    decoder->entropy.num_segments = found;
    decoder->entropy.interval = interval;
    return scan;
}

/* Put our Huffman decoder in the place of libjpeg's, where the image is one that ours can read; 0 where it is not.
 * The layout of the private struct has been the same in all versions of libjpeg: `decode_mcu` is its second pointer. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr codec);
    boolean (*decode_mcu)(j_decompress_ptr codec, JBLOCKROW *blocks);
};

static int use_own_entropy(j_decompress_ptr codec, struct entropy *entropy) {
    if (codec->progressive_mode || codec->arith_code || codec->comps_in_scan != codec->num_components)
        return 0;
    for (int c = 0; c < codec->comps_in_scan; c++) {
        int dc = codec->cur_comp_info[c]->dc_tbl_no, ac = codec->cur_comp_info[c]->ac_tbl_no;
        if (!make_huffman(codec->dc_huff_tbl_ptrs[dc], &entropy->dc[dc], 1) ||
            !make_huffman(codec->ac_huff_tbl_ptrs[ac], &entropy->ac[ac], 0))
            return 0;
    }
    int64_t num_mcus = (int64_t)codec->MCUs_per_row * codec->MCU_rows_in_scan;
    if (entropy->segments == NULL) {
        entropy->interval = codec->restart_interval ? codec->restart_interval : num_mcus;
        entropy->num_segments = (num_mcus + entropy->interval - 1) / entropy->interval;
    } else if (entropy->num_segments * entropy->interval != num_mcus || codec->restart_interval != entropy->interval) {
        return 0;
    }
    codec->client_data = entropy;
    codec->entropy->decode_mcu = decode_mcu;
    return 1;
}

/* Decode the part of a JPEG under `box`, with something around it, or all of it, to decoder->pixels, its rows part->width
 * pixels apart. Returns 0 where that did not work in this way. */
enum way { WITH_INDEX, OWN_ENTROPY, LIBJPEG };

static int decode_in_one_way(enum way way, struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width,
                             int64_t height, const struct box *box, struct part *part) {
    j_decompress_ptr codec = &decoder->codec;
    struct entropy *entropy = &decoder->entropy;

    entropy->jpeg = blob;
    entropy->segment = entropy->mcus_left = entropy->mcus_done = 0;
    decoder->errors.num_warnings = 0;
    /* Else an image without tables of its own would be decoded with those of the one before. */
    memset(codec->quant_tbl_ptrs, 0, sizeof codec->quant_tbl_ptrs);
    memset(codec->dc_huff_tbl_ptrs, 0, sizeof codec->dc_huff_tbl_ptrs);
    memset(codec->ac_huff_tbl_ptrs, 0, sizeof codec->ac_huff_tbl_ptrs);
    if (setjmp(decoder->failed) != 0) {
        jpeg_abort_decompress(codec);
        return 0;
    }
    if (way == WITH_INDEX) {
        int64_t header = read_index(decoder, blob, size, width, height, box, part);
        if (header == 0)
            return 0;
        jpeg_mem_src(codec, decoder->header, header);
    } else {
        *part = (struct part){0, 0, width, height};
        entropy->segments = NULL;
        entropy->jpeg_end = blob + size;
        jpeg_mem_src(codec, blob, size);
    }
    jpeg_read_header(codec, TRUE);
    entropy->position = codec->src->next_input_byte - blob;     /* which only OWN_ENTROPY looks at */
    codec->out_color_space = JCS_RGB;
    codec->dct_method = JDCT_ISLOW;
    if (codec->image_width != part->width || codec->image_height != part->height)
        longjmp(decoder->failed, 1);
    jpeg_start_decompress(codec);
    if (way != LIBJPEG && !use_own_entropy(codec, entropy))
        longjmp(decoder->failed, 1);

    int64_t bottom = way == LIBJPEG ? height : box->top + box->height - part->top;
    while (codec->output_scanline < bottom) {
        JSAMPROW row = decoder->pixels + (size_t)codec->output_scanline * part->width * 3;
        jpeg_read_scanlines(codec, &row, 1);
    }
    if (way == LIBJPEG)
        jpeg_finish_decompress(codec);      /* reads to the end */
    if (way == OWN_ENTROPY) {
        JBLOCK blocks[D_MAX_BLOCKS_IN_MCU];     /* of the rest, which is looked at for damage only */
        JBLOCKROW rows[D_MAX_BLOCKS_IN_MCU];
        for (int b = 0; b < D_MAX_BLOCKS_IN_MCU; b++)
            rows[b] = &blocks[b];
        while (entropy->mcus_done < (int64_t)codec->MCUs_per_row * codec->MCU_rows_in_scan)
            decode_mcu(codec, rows);
    }
    jpeg_abort_decompress(codec);
    return decoder->errors.num_warnings == 0;
}

static void on_error(j_common_ptr codec) {
    struct decoder *decoder = (struct decoder *)codec;      /* its first member */
    longjmp(decoder->failed, 1);
}

static void on_message(j_common_ptr codec, int level) {
    /* Bytes between markers, which some cameras leave, carry no pixels. All else that is a warning means damage. */
    if (level < 0 && codec->err->msg_code != JWRN_EXTRANEOUS_DATA)
        codec->err->num_warnings++;
}

static void free_decoder(struct decoder *decoder) {
    jpeg_destroy_decompress(&decoder->codec);
    free(decoder->entropy.clean);
    free(decoder->segments);
    free(decoder->pixels);
    free(decoder);
}

/* For images of up to `num_pixels` and blobs of up to `size` bytes; NULL where there is no memory for it. */
static struct decoder *new_decoder(int64_t num_pixels, int64_t size) {
    struct decoder *decoder = calloc(1, sizeof *decoder);
    if (decoder == NULL)
        return NULL;
    decoder->codec.err = jpeg_std_error(&decoder->errors);
    decoder->errors.error_exit = on_error;
    decoder->errors.emit_message = on_message;
    decoder->entropy.failed = &decoder->failed;
    for (uint32_t i = 0; i < 256; i++) {
        decoder->crc[i] = i;
        for (int k = 0; k < 8; k++)
            decoder->crc[i] = decoder->crc[i] & 1 ? decoder->crc[i] >> 1 ^ 0xEDB88320 : decoder->crc[i] >> 1;
    }
    decoder->entropy.clean = malloc(size + PADDING);
    decoder->segments = malloc(size / 2 * sizeof *decoder->segments + 1);   /* two bytes of index, at the least, for each */
    decoder->pixels = malloc(3 * num_pixels);
    if (setjmp(decoder->failed) != 0 || !decoder->entropy.clean || !decoder->segments || !decoder->pixels) {
        free_decoder(decoder);
        return NULL;
    }
    jpeg_create_decompress(&decoder->codec);
    return decoder;
}

/* ---- Resizing ------------------------------------------------------------------------------------------------------------ */

typedef float floats4 __attribute__((vector_size(16), aligned(4), may_alias));     /* a pixel, and a value of the next */

/* Along one axis: of each output pixel its first source pixel, how many count, and their shares. */
struct taps {
    int32_t *starts, *counts;
    float *shares;          /* [target, stride], padded with 0 */
    int64_t stride, most;   /* of the counts */
};

/* As _taps in kernel_numba.py. Shrinking: the overlap of [i, i + 1) * source / target with each source pixel. Enlarging: linear
 * between the two nearest centres, the border repeated. */
static int64_t taps_stride(int64_t source, int64_t target) {
    return source > target ? source / target + 2 : 2;
}

static void fill_taps(struct taps *taps, int64_t source, int64_t target) {
    taps->stride = taps_stride(source, target);
    taps->most = 0;
    memset(taps->shares, 0, target * taps->stride * sizeof *taps->shares);
    for (int64_t i = 0; i < target; i++) {
        float *shares = taps->shares + i * taps->stride;
        if (source > target) {
            int64_t begin = i * source, end = (i + 1) * source, first = begin / target, last = (end - 1) / target;
            taps->starts[i] = first;
            taps->counts[i] = last - first + 1;
            for (int64_t k = first; k <= last; k++) {
                int64_t low = k * target > begin ? k * target : begin, high = (k + 1) * target < end ? (k + 1) * target : end;
                shares[k - first] = (double)(high - low) / (double)source;
            }
        } else {
            double center = (i + 0.5) * source / target - 0.5;
            center = center < 0 ? 0 : center > source - 1.0 ? source - 1.0 : center;
            int64_t first = (int64_t)center < source - 2 ? (int64_t)center : source > 2 ? source - 2 : 0;
            taps->starts[i] = first;
            taps->counts[i] = source < 2 ? source : 2;
            shares[0] = 1.0 - (center - first);
            shares[1] = center - first;
        }
        taps->most = taps->counts[i] > taps->most ? taps->counts[i] : taps->most;
    }
}

static void mirror_taps(struct taps *taps, int64_t target) {
    for (int64_t i = 0, j = target - 1; i < j; i++, j--) {
        int32_t start = taps->starts[i];
        taps->starts[i] = taps->starts[j], taps->starts[j] = start;
        for (int64_t k = 0; k < taps->stride; k++) {
            float share = taps->shares[i * taps->stride + k];
            taps->shares[i * taps->stride + k] = taps->shares[j * taps->stride + k];
            taps->shares[j * taps->stride + k] = share;
        }
    }
}

struct resizer {
    struct taps down, across;
    float *line, *result;   /* an output row as wide as the box, and padding; one as wide as the output, and a value */
};

/* line = the sum of shares over `count` source rows of `size` bytes. */
INLINE void sum_rows(const uint8_t *restrict rows, int64_t stride, int64_t count, const float *shares, int64_t size,
                     float *restrict line) {
    const float first = shares[0], second = shares[1];
    const uint8_t *restrict below = rows + stride;
    if (count == 1) {
        for (int64_t i = 0; i < size; i++)
            line[i] = first * rows[i];
        return;
    }
    for (int64_t i = 0; i < size; i++)
        line[i] = first * rows[i] + second * below[i];
    for (int64_t k = 2; k < count; k++) {
        const uint8_t *restrict row = rows + k * stride;
        const float share = shares[k];
        for (int64_t i = 0; i < size; i++)
            line[i] += share * row[i];
    }
}

/* Weighted sums along the line, to a row of RGB. */
INLINE void sum_columns(const float *line, const struct taps *taps, int64_t most, int64_t target, float *result, uint8_t *row) {
    for (int64_t x = 0; x < target; x++) {
        const float *shares = taps->shares + x * taps->stride;
        const float *from = line + 3 * taps->starts[x];
        floats4 sum = (floats4){} + 0.5f;      /* so that cutting off is rounding */
        for (int64_t k = 0; k < most; k++)
            sum += shares[k] * *(const floats4 *)(from + 3 * k);
        *(floats4 *)(result + 3 * x) = sum;     /* the next pixel writes over the fourth value */
    }
    for (int64_t i = 0; i < 3 * target; i++)
        row[i] = (uint8_t)(int32_t)result[i];
}

/* The box, whose rows are `stride` bytes apart, to output [resolution, resolution, 3]. */
FOR_EACH_PROCESSOR
static void resize(struct resizer *resizer, const uint8_t *pixels, int64_t stride, int64_t width, int64_t height, int flip,
                   int64_t resolution, uint8_t *output) {
    struct taps *down = &resizer->down, *across = &resizer->across;
    fill_taps(down, height, resolution);
    fill_taps(across, width, resolution);
    if (flip)
        mirror_taps(across, resolution);
    for (int64_t y = 0; y < resolution; y++) {
        uint8_t *row = output + y * resolution * 3;
        sum_rows(pixels + down->starts[y] * stride, stride, down->counts[y], down->shares + y * down->stride,
                 3 * width, resizer->line);
        if (across->most <= 2)
            sum_columns(resizer->line, across, 2, resolution, resizer->result, row);
        else if (across->most == 3)
            sum_columns(resizer->line, across, 3, resolution, resizer->result, row);
        else
            sum_columns(resizer->line, across, across->most, resolution, resizer->result, row);
    }
}

static void free_resizer(struct resizer *resizer) {
    free(resizer->down.starts);
    free(resizer->down.shares);
    free(resizer->across.starts);
    free(resizer->across.shares);
    free(resizer->line);
    free(resizer->result);
}

/* For boxes of up to `width` x `height`; 0 where there is no memory for it. */
static int make_resizer(struct resizer *resizer, int64_t width, int64_t height, int64_t resolution) {
    struct taps *axes[2] = {&resizer->down, &resizer->across};
    const int64_t longest[2] = {height, width};
    for (int axis = 0; axis < 2; axis++) {
        axes[axis]->starts = malloc(2 * resolution * sizeof(int32_t));
        axes[axis]->counts = axes[axis]->starts + resolution;
        axes[axis]->shares = malloc(resolution * taps_stride(longest[axis], resolution) * sizeof(float));
    }
    /* Zeros, because what lies in the padding is added with a share of 0, and must be a number. */
    resizer->line = calloc(3 * (width + taps_stride(width, resolution)) + 1, sizeof(float));
    resizer->result = malloc((3 * resolution + 1) * sizeof(float));
    return resizer->down.starts && resizer->down.shares && resizer->across.starts && resizer->across.shares &&
           resizer->line && resizer->result;
}

/* ---- All of it ----------------------------------------------------------------------------------------------------------- */

/* The contract stands in loaders/kernel.py. Returns -1 where there is no memory for it, else 0. */
int harness_decode_images(const uint8_t *file, const int64_t *offsets, const int64_t *sizes, const uint8_t *modes,
                          const int64_t *widths, const int64_t *heights, const struct box *boxes, const uint8_t *flips,
                          int64_t n, int64_t resolution, uint8_t *output, uint8_t *complaints) {
    int64_t num_pixels = 0, size = 0, box_width = 0, box_height = 0;
    for (int64_t i = 0; i < n; i++) {
        num_pixels = widths[i] * heights[i] > num_pixels ? widths[i] * heights[i] : num_pixels;
        size = sizes[i] > size ? sizes[i] : size;
        box_width = boxes[i].width > box_width ? boxes[i].width : box_width;
        box_height = boxes[i].height > box_height ? boxes[i].height : box_height;
    }
    struct decoder *decoder = new_decoder(num_pixels, size);
    struct resizer resizer = {0};
    int ready = decoder != NULL && make_resizer(&resizer, box_width, box_height, resolution);
    for (int64_t i = 0; ready && i < n; i++) {
        const uint8_t *blob = file + offsets[i];
        const struct box *box = &boxes[i];
        const uint8_t *pixels = blob;
        struct part part = {0, 0, widths[i], heights[i]};
        complaints[i] = 0;
        if (modes[i] == JPEG) {
            int done = 0;
            for (enum way way = WITH_INDEX; !done && way <= LIBJPEG; way++)
                done = decode_in_one_way(way, decoder, blob, sizes[i], widths[i], heights[i], box, &part);
            complaints[i] = !done;
            pixels = decoder->pixels;
        }
        int64_t stride = part.width * 3;
        resize(&resizer, pixels + (box->top - part.top) * stride + (box->left - part.left) * 3, stride, box->width, box->height,
               flips[i], resolution, output + i * resolution * resolution * 3);
    }
    if (decoder != NULL)
        free_decoder(decoder);
    free_resizer(&resizer);
    return ready ? 0 : -1;
}
