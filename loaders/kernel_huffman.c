/* The C kernel's own Huffman decoder, which replaces libjpeg's for baseline images of one scan.
 *
 * With an index, it decodes only the segments under the crop; without one, all segments in order. A
 * segment is first copied without its stuffed zeros (the byte 0 after each 0xFF), so that a read
 * takes eight bytes. One lookup gives the length of a code, its run of zeros and the size of its
 * value. Any error ends in a longjmp, after which libjpeg decodes the whole image.
 *
 * native/lanes.c decodes several segments at a time with the same tables; this file decodes one, in
 * libjpeg's pipeline.
 */

#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "native/huffman.h"

static struct code make_code(int length, int run, int size) {
    return (struct code){length, length + size, run, 64 - size, 1 - (1 << size)};
}

enum { MAX_DC_SIZE = 11, MAX_AC_SIZE = 10 };    /* most bits of a value in a baseline image */

/* Write the entries of short_codes whose index begins with one code, from `next` on; return the
 * entry after them. The code has `length` bits, at most SHORT_BITS; its value has `size` bits and
 * comes after `run` zeros. */
static uint32_t *put_short_codes(uint32_t *next, int length, int run, int size) {
    const int spread = SHORT_BITS - length - size;
    if (spread < 0) {
        memset(next, 0, sizeof *next << (SHORT_BITS - length));
        return next + (1 << (SHORT_BITS - length));
    }
    const uint32_t code = (uint32_t)(run + 1) << 8 | (uint32_t)(length + size);
    /* Values whose bits begin with 0 are negative and come first, then the positive ones; both
     * ascend by 1. */
    const int32_t first[2] = {1 - (1 << size), 1 << size >> 1};
    for (int half = size > 0 ? 0 : 1; half < 2; half++) {
        uint32_t entry = (uint32_t)(size > 0 ? first[half] : 0) << 16 | code;
        for (int32_t i = 0; i < 1 << size; i += 2, entry += 1 << 16)
            for (int k = 0; k < 1 << spread; k++)
                *next++ = entry;
    }
    return next;
}

/* Codes ascend, so that lookup and short_codes are filled from their start on. Each code is below
 * 2^length, so that the entries of all codes fit. */
int make_huffman(const JHUFF_TBL *table, struct huffman *huffman, int is_dc) {
    struct code *next = huffman->lookup;
    uint32_t *next_short = huffman->short_codes;
    uint32_t code = 0;
    int symbol = 0;

    if (table == NULL)
        return 0;
    huffman->symbols = table->huffval;
    for (int length = 1; length <= 16; length++) {
        huffman->offset[length] = symbol - (int32_t)code;
        for (int i = 0; i < table->bits[length]; i++, symbol++, code++) {
            int run = is_dc ? 0 : table->huffval[symbol] >> 4;
            int size = is_dc ? table->huffval[symbol] : table->huffval[symbol] & 15;
            if (symbol > 255 || code >> length || size > (is_dc ? MAX_DC_SIZE : MAX_AC_SIZE))
                return 0;
            if (!is_dc && length <= SHORT_BITS)
                next_short = put_short_codes(next_short, length, size == 0 && run < 15 ? END_RUN : run, size);
            if (length <= LOOKUP_BITS) {
                const struct code entry = make_code(length, run, size);
                for (int k = 0; k < 1 << (LOOKUP_BITS - length); k++)
                    *next++ = entry;
            }
        }
        huffman->first_beyond[length] = code << (16 - length);
        code <<= 1;
    }
    while (next < huffman->lookup + (1 << LOOKUP_BITS))
        *next++ = (struct code){.shift = 64};
    while (!is_dc && next_short < huffman->short_codes + (1 << SHORT_BITS))
        *next_short++ = 0;
    return 1;
}

const struct code *long_code(struct entropy *entropy, const struct huffman *huffman, uint64_t word, int is_dc) {
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

/* Decode the coefficients of a block to `block` [64], natural order, which is all zeros.
 *
 * A refill leaves at least 56 valid bits. DC and its value have at most 27 bits, AC at most 26. So
 * one refill is enough for two codes. */
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
        const uint32_t short_code = ac->short_codes[bits->word >> (64 - SHORT_BITS)];
        if (__builtin_expect(short_code != 0, 1)) {
            k += (int)(short_code >> 8 & 0xFF) - 1;
            /* An end-of-block code writes its 0 to block[63], which is still 0 then. */
            block[ZIGZAG[k]] = (JCOEF)(short_code >> 16);
            drop(bits, (int)(short_code & 0xFF));
            continue;
        }
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
    /* A run of zeros went beyond the block. After an end-of-block code, k is above END_RUN. */
    if (k > 64 && k <= END_RUN)
        fail(entropy);
}

/* Copy the next segment to entropy->clean, and check the marker at its end. The copy is at most as
 * long as the blob, for which reserve_blob has made room. */
static void open_segment(struct entropy *entropy) {
    if (entropy->segment >= entropy->num_segments)
        fail(entropy);
    const struct segment *segment = entropy->segments ? &entropy->segments[entropy->segment] : NULL;
    const uint8_t *from = entropy->jpeg + (segment ? segment->begin : entropy->position);
    const uint8_t *end = segment ? entropy->jpeg + segment->end : entropy->jpeg_end;
    uint8_t *to = entropy->clean;
    while (1) {
        const uint8_t *escape = from < end ? memchr(from, 0xFF, end - from) : NULL;
        if (escape == NULL || escape + 1 >= end)
            fail(entropy);
        memcpy(to, from, escape - from);
        to += escape - from;
        from = escape + 2;
        if (escape[1] != 0) {
            int64_t number = entropy->segment;
            int expected = number == entropy->num_segments - 1 ? JPEG_EOI : JPEG_RST0 + number % 8;
            /* With an index, read_index has checked the marker. */
            if (segment ? from != end : escape[1] != expected)
                fail(entropy);
            break;
        }
        *to++ = 0xFF;
    }
    entropy->position = from - entropy->jpeg;
    entropy->segment++;
    int64_t to_come = entropy->num_mcus - entropy->mcus_done;
    entropy->mcus_left = to_come < entropy->interval ? to_come : entropy->interval;
    entropy->clean_size = to - entropy->clean;
    entropy->bits = (struct bits){0, 0, entropy->clean};
    memset(to, 0, PADDING);
    memset(entropy->predicted, 0, sizeof entropy->predicted);
}

/* Check that all bits of the segment are used, except for at most 7 bits of padding. */
static void close_segment(const struct entropy *entropy) {
    int64_t used = 8 * (entropy->bits.next - entropy->clean) - entropy->bits.count;
    int64_t left = 8 * (int64_t)entropy->clean_size - used;
    if (left < 0 || left > 7)
        fail(entropy);
}

/* Replacement of libjpeg's decode_mcu: decode one MCU into zeroed blocks. */
static boolean decode_mcu(j_decompress_ptr codec, JBLOCKROW *blocks) {
    struct entropy *entropy = codec->client_data;
    if (entropy->mcus_left == 0)
        open_segment(entropy);
    struct bits bits = entropy->bits;
    for (int b = 0; b < codec->blocks_in_MCU; b++) {
        int c = codec->MCU_membership[b];
        const jpeg_component_info *component = codec->cur_comp_info[c];
        if (bits.next > entropy->clean + entropy->clean_size + 8)   /* PADDING relies on this */
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

/* Begin of a private struct of libjpeg. `decode_mcu` is its second pointer in all versions of
 * libjpeg and libjpeg-turbo. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr codec);
    boolean (*decode_mcu)(j_decompress_ptr codec, JBLOCKROW *blocks);
};

/* Make the decoding tables of the scan's components. Returns 0 if one of them is missing or not
 * valid in a baseline image. */
int make_tables(j_decompress_ptr codec, struct entropy *entropy) {
    for (int c = 0; c < codec->comps_in_scan; c++) {
        int dc = codec->cur_comp_info[c]->dc_tbl_no, ac = codec->cur_comp_info[c]->ac_tbl_no;
        if (!make_huffman(codec->dc_huff_tbl_ptrs[dc], &entropy->dc[dc], 1) ||
            !make_huffman(codec->ac_huff_tbl_ptrs[ac], &entropy->ac[ac], 0))
            return 0;
    }
    return 1;
}

/* Replace libjpeg's Huffman decoder by ours. Returns 0 if ours cannot read the image. */
int use_own_entropy(j_decompress_ptr codec, struct entropy *entropy) {
    if (codec->progressive_mode || codec->arith_code || codec->comps_in_scan != codec->num_components)
        return 0;
    /* Other values mean a lossless image, whose decoder libjpeg-turbo 3 calls with other
     * arguments. */
    if (codec->Ss != 0 || codec->Se != DCTSIZE2 - 1 || codec->Ah != 0 || codec->Al != 0)
        return 0;
    if (!make_tables(codec, entropy))
        return 0;
    int64_t num_mcus = (int64_t)codec->MCUs_per_row * codec->MCU_rows_in_scan;
    if (entropy->segments == NULL) {
        entropy->interval = codec->restart_interval ? codec->restart_interval : num_mcus;
        entropy->num_segments = (num_mcus + entropy->interval - 1) / entropy->interval;
    } else if (entropy->num_segments * entropy->interval != num_mcus || codec->restart_interval != entropy->interval) {
        return 0;
    }
    entropy->num_mcus = num_mcus;
    codec->client_data = entropy;
    codec->entropy->decode_mcu = decode_mcu;
    return 1;
}

/* Decode the MCUs that are left, only to detect damage. */
void decode_rest(j_decompress_ptr codec) {
    const struct entropy *entropy = codec->client_data;
    JBLOCK blocks[D_MAX_BLOCKS_IN_MCU];
    JBLOCKROW rows[D_MAX_BLOCKS_IN_MCU];
    for (int b = 0; b < D_MAX_BLOCKS_IN_MCU; b++)
        rows[b] = &blocks[b];
    while (entropy->mcus_done < entropy->num_mcus)
        decode_mcu(codec, rows);
}
