/* Read restart indexes, and decode JPEGs with libjpeg-turbo: the part under a box with our Huffman
 * decoder, or the whole image with libjpeg-turbo's. */

#include <stdlib.h>
#include <string.h>

#include "kernel.h"

/* In pixels: the chroma of a pixel is interpolated from samples at most this far away. */
enum { MARGIN = 2 };
enum { MIN_WIDTH = 5 };     /* pixels: libjpeg does not interpolate the chroma of narrower images */
enum { FOOTER_SIZE = 28, INDEX_VERSION = 1 };     /* as in writers/jpeg/restart_index.py */

static uint32_t u16(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8;
}

static uint32_t u32(const uint8_t *at) {
    return u16(at) | u16(at + 2) << 16;
}

/* Continue the CRC-32 `crc`, without the final inversion, with `size` bytes, four at a time. */
static uint32_t crc32_of(const uint32_t tables[4][256], uint32_t crc, const uint8_t *bytes, int64_t size) {
    int64_t i = 0;
    for (; i + 4 <= size; i += 4) {
        crc ^= u32(bytes + i);
        crc = tables[3][crc & 255] ^ tables[2][crc >> 8 & 255] ^ tables[1][crc >> 16 & 255] ^ tables[0][crc >> 24];
    }
    for (; i < size; i++)
        crc = tables[0][(crc ^ bytes[i]) & 255] ^ crc >> 8;
    return crc;
}

/* Return the first and the last column of segments that the crops need in row `row` of segments. A
 * segment has width x height pixels; `most` is the last column of the part. */
static struct span segments_of(const struct box *crops, int64_t num_crops, int64_t row, int64_t width, int64_t height, int64_t most) {
    struct span columns = columns_of(crops, num_crops, row * height - MARGIN, (row + 1) * height + MARGIN - 1);
    return (struct span){max64(columns.first - MARGIN, 0) / width, min64((columns.last + MARGIN) / width, most)};
}

/* Read the index after the JPEG, and prepare to decode the segments under the crops.
 *
 * `box` is the smallest box around all crops. With at most one crop, all segments of the part are
 * needed. Sets:
 *     part                the part: `box`, MARGIN pixels around it, and what completes the segments
 *     decoder->header     the JPEG's header, with the size of the part as image size
 *     decoder->segments   the segments of the part, row by row; {0, 0} if no crop needs one
 *     decoder->entropy    the fields that locate the segments
 * Returns the size of the header in bytes, or 0 if the blob has no index, or an index that does not
 * match the blob or width and height. Same as cut_out in cut_out_numba.py.
 *
 * Why reads stay in the blob: `scan`, the size of the header, is at most `table`; the frame is
 * inside the header; the table has num_segments entries; and `end` is compared with `table` before
 * the marker in front of it is read. Segments number at most size / 2, see reserve_blob. */
static int64_t read_index(struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height,
                          const struct box *crops, int64_t num_crops, const struct box *box, struct box *part) {
    int64_t footer = size - FOOTER_SIZE;
    decoder->errors.has_index = footer >= 0 && ends_in_index(blob, size);
    if (!decoder->errors.has_index)
        return 0;
    const uint8_t *at = blob + footer;
    int64_t num_segments = u32(at), frame = u32(at + 4), scan = u32(at + 8), interval = u16(at + 12);
    int64_t table = footer - 2 * num_segments;
    if (u16(at + 14) != INDEX_VERSION || table < scan || scan > MAX_HEADER || interval == 0 || frame + 10 > scan)
        return 0;
    uint32_t crc = crc32_of(decoder->crc, 0xFFFFFFFF, blob, scan);
    if (~crc32_of(decoder->crc, crc, blob + table, footer + 16 - table) != u32(at + 16))
        return 0;

    /* Bytes of the frame header: FF C0, u16 length, 8, u16 height, u16 width, number of components;
     * then three bytes of each component: its id, its sampling factors, the number of its
     * quantization table. */
    at = blob + frame;
    int num_components = at[9], across = 1, down = 1;
    if ((num_components != 1 && num_components != 3) || frame + 10 + 3 * num_components > scan ||
        256 * at[5] + at[6] != height || 256 * at[7] + at[8] != width)
        return 0;
    /* The factors of a gray image do not matter, since its MCUs are single blocks. */
    for (int k = 0; num_components == 3 && k < 3; k++) {
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
    if (first > 0 && right - first * segment_width < MIN_WIDTH)
        first--;
    *part = (struct box){first * segment_width, first_row * segment_height, right - first * segment_width,
                          bottom - first_row * segment_height};

    int64_t begin = scan, found = 0, number = 0;
    for (; number < per_row * first_row; number++)
        begin += u16(blob + table + 2 * number);
    for (int64_t row = first_row; row <= last_row; row++) {
        const struct span needed =
            num_crops > 1 ? segments_of(crops, num_crops, row, segment_width, segment_height, last) : (struct span){first, last};
        for (int64_t column = 0; column < per_row; column++, number++) {
            const int64_t end = begin + u16(blob + table + 2 * number);
            if (column >= first && column <= last) {
                const int marker = number == num_segments - 1 ? JPEG_EOI : JPEG_RST0 + number % 8;
                const int is_needed = column >= needed.first && column <= needed.last;
                if (is_needed && (end < begin + 2 || end > table || blob[end - 2] != 0xFF || blob[end - 1] != marker))
                    return 0;
                decoder->segments[found++] = is_needed ? (struct segment){begin, end} : (struct segment){0, 0};
            }
            begin = end;
        }
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

/* Value of bits[0] of a Huffman table that no image has set. libjpeg sets it to 0 when it reads a
 * table. */
enum { UNREAD = 1 };
/* Largest number of unused tables in libjpeg's permanent pool, before the codec is replaced. */
enum { MAX_DROPPED = 64 };

/* Mark libjpeg's tables as unread. Without this, an image that has no tables would be decoded with
 * those of the image before it. The tables stay allocated: libjpeg takes new ones from its
 * permanent pool, which is only freed with the codec. */
static void mark_tables(struct decoder *decoder) {
    j_decompress_ptr codec = &decoder->codec;
    if (decoder->num_dropped > MAX_DROPPED) {
        jpeg_destroy_decompress(codec);
        jpeg_create_decompress(codec);
        decoder->num_dropped = 0;
    }
    for (int i = 0; i < NUM_QUANT_TBLS; i++)
        if (codec->quant_tbl_ptrs[i] != NULL)
            memset(codec->quant_tbl_ptrs[i]->quantval, 0, sizeof codec->quant_tbl_ptrs[i]->quantval);
    for (int i = 0; i < NUM_HUFF_TBLS; i++) {
        if (codec->dc_huff_tbl_ptrs[i] != NULL)
            codec->dc_huff_tbl_ptrs[i]->bits[0] = UNREAD;
        if (codec->ac_huff_tbl_ptrs[i] != NULL)
            codec->ac_huff_tbl_ptrs[i]->bits[0] = UNREAD;
    }
}

static int is_zero(const JQUANT_TBL *table) {
    int found = 0;
    for (int k = 0; k < DCTSIZE2; k++)
        found |= table->quantval[k];
    return found == 0;
}

/* Remove the tables that are still marked; call it after the header was read. libjpeg treats a NULL
 * table as absent: it fails, or takes the Huffman tables of the JPEG standard. */
static void drop_unread_tables(struct decoder *decoder) {
    j_decompress_ptr codec = &decoder->codec;
    for (int i = 0; i < NUM_QUANT_TBLS; i++)
        if (codec->quant_tbl_ptrs[i] != NULL && is_zero(codec->quant_tbl_ptrs[i])) {
            codec->quant_tbl_ptrs[i] = NULL;
            decoder->num_dropped++;
        }
    JHUFF_TBL **kinds[2] = {codec->dc_huff_tbl_ptrs, codec->ac_huff_tbl_ptrs};
    for (int i = 0; i < 2 * NUM_HUFF_TBLS; i++) {
        JHUFF_TBL **table = &kinds[i % 2][i / 2];
        if (*table != NULL && (*table)->bits[0] == UNREAD) {
            *table = NULL;
            decoder->num_dropped++;
        }
    }
}

/* Read the index and the header of a JPEG with an index, as read_index describes. Returns 0 if
 * there is no valid index; other errors end in a longjmp to decoder->errors.back. */
int open_indexed(struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height, const struct box *crops,
                 int64_t num_crops, const struct box *box, struct box *part) {
    j_decompress_ptr codec = &decoder->codec;
    decoder->entropy.jpeg = blob;
    decoder->errors.base.num_warnings = 0;
    mark_tables(decoder);
    int64_t header = read_index(decoder, blob, size, width, height, crops, num_crops, box, part);
    if (header == 0)
        return 0;
    jpeg_mem_src(codec, decoder->header, header);
    jpeg_read_header(codec, TRUE);
    drop_unread_tables(decoder);
    if (codec->image_width != part->width || codec->image_height != part->height)
        longjmp(decoder->errors.back, 1);
    return 1;
}

/* Ways to decode, the fastest first: only the part, with our Huffman decoder; the whole image, with
 * our Huffman decoder; the whole image, with libjpeg's. */
enum way { WITH_INDEX, OWN_ENTROPY, LIBJPEG };

/* Prepare the decoder up to the first pixel. Returns 0 if WITH_INDEX finds no valid index; other
 * errors end in a longjmp to decoder->errors.back. */
static int begin(enum way way, struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height,
                 const struct box *box, struct box *part) {
    j_decompress_ptr codec = &decoder->codec;
    struct entropy *entropy = &decoder->entropy;

    entropy->jpeg = blob;
    entropy->segment = entropy->mcus_left = entropy->mcus_done = 0;
    decoder->errors.base.num_warnings = 0;
    mark_tables(decoder);
    if (way == WITH_INDEX) {
        int64_t header = read_index(decoder, blob, size, width, height, NULL, 0, box, part);
        if (header == 0)
            return 0;
        jpeg_mem_src(codec, decoder->header, header);
    } else {
        *part = (struct box){0, 0, width, height};
        entropy->segments = NULL;
        entropy->jpeg_end = blob + size;
        jpeg_mem_src(codec, blob, size);
    }
    jpeg_read_header(codec, TRUE);
    drop_unread_tables(decoder);
    if (way == OWN_ENTROPY) {
        /* If the blob ends within its header, libjpeg continues with an end marker in its own
         * memory. */
        uintptr_t next = (uintptr_t)codec->src->next_input_byte, first = (uintptr_t)blob;
        if (next < first || next > first + size)
            longjmp(decoder->errors.back, 1);
        entropy->position = next - first;
    }
    codec->out_color_space = JCS_RGB;
    codec->dct_method = JDCT_ISLOW;
    if (codec->image_width != part->width || codec->image_height != part->height)
        longjmp(decoder->errors.back, 1);
    jpeg_start_decompress(codec);
    if (way != LIBJPEG && !use_own_entropy(codec, entropy))
        longjmp(decoder->errors.back, 1);
    return 1;
}

/* Decode in one way, as decode_box describes. Returns 0 on an error or a warning. */
static int decode_in_one_way(enum way way, struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width,
                             int64_t height, const struct box *box, struct box *part) {
    if (setjmp(decoder->errors.back) != 0) {
        jpeg_abort_decompress(&decoder->codec);
        return 0;
    }
    if (!begin(way, decoder, blob, size, width, height, box, part))
        return 0;
    j_decompress_ptr codec = &decoder->codec;
    int64_t bottom = way == LIBJPEG ? height : box->top + box->height - part->top;
    while (codec->output_scanline < bottom) {
        JSAMPROW row = decoder->pixels + (size_t)codec->output_scanline * part->width * 3;
        jpeg_read_scanlines(codec, &row, 1);
    }
    if (way == LIBJPEG)
        jpeg_finish_decompress(codec);      /* reads to the end, so that all damage is found */
    if (way != LIBJPEG)
        decode_rest(codec);
    jpeg_abort_decompress(codec);
    return decoder->errors.base.num_warnings == 0;
}

/* Decode a JPEG, or only its part around `box`, to decoder->pixels.
 *
 * Sets `part` to the box that was decoded, in pixels; pixels are [part->height, part->width, 3].
 * Rows below `box` may be undefined. Returns 0 if all ways end in an error or a warning. */
int decode_box(struct decoder *decoder, const uint8_t *blob, int64_t size, int64_t width, int64_t height, const struct box *box,
               struct box *part) {
    for (enum way way = WITH_INDEX; way <= LIBJPEG; way++)
        if (decode_in_one_way(way, decoder, blob, size, width, height, box, part))
            return 1;
    return 0;
}

void free_decoder(struct decoder *decoder) {
    jpeg_destroy_decompress(&decoder->codec);
    free(decoder->entropy.clean);
    for (int i = 0; i < NUM_LANES - 1; i++)
        free(decoder->more_clean[i]);
    free(decoder->segments);
    free(decoder->pixels);
    free(decoder);
}

/* Make a decoder. Returns NULL if memory is short. */
struct decoder *new_decoder(void) {
    struct decoder *volatile decoder = calloc(1, sizeof *decoder);
    if (decoder == NULL)
        return NULL;
    decoder->codec.err = start_jpeg_errors(&decoder->errors, NULL);
    decoder->entropy.failed = &decoder->errors.back;
    for (uint32_t i = 0; i < 256; i++) {
        decoder->crc[0][i] = i;
        for (int k = 0; k < 8; k++)
            decoder->crc[0][i] = decoder->crc[0][i] & 1 ? decoder->crc[0][i] >> 1 ^ 0xEDB88320 : decoder->crc[0][i] >> 1;
    }
    for (int zeros = 1; zeros < 4; zeros++)
        for (int i = 0; i < 256; i++)
            decoder->crc[zeros][i] = decoder->crc[0][decoder->crc[zeros - 1][i] & 255] ^ decoder->crc[zeros - 1][i] >> 8;
    if (setjmp(decoder->errors.back) != 0) {
        free_decoder(decoder);
        return NULL;
    }
    jpeg_create_decompress(&decoder->codec);
    return decoder;
}

/* Make room for a blob of `size` bytes. Returns 0 if memory is short. */
int reserve_blob(struct decoder *decoder, int64_t size) {
    if (size > decoder->blob_size) {
        int64_t room = size + size / 4;     /* sizes vary from image to image */
        free(decoder->entropy.clean);
        free(decoder->segments);
        decoder->entropy.clean = malloc(room + PADDING);
        int has_memory = decoder->entropy.clean != NULL;
        for (int i = 0; i < NUM_LANES - 1; i++) {
            free(decoder->more_clean[i]);
            has_memory &= (decoder->more_clean[i] = malloc(room + PADDING)) != NULL;
        }
        /* Each segment takes two bytes of the index, so there are at most room / 2. */
        decoder->segments = malloc(room / 2 * sizeof *decoder->segments + 1);
        decoder->blob_size = has_memory && decoder->segments != NULL ? room : 0;
    }
    return size <= decoder->blob_size;
}

/* Make room for `num_pixels` in decoder->pixels. Returns 0 if memory is short. */
int reserve_pixels(struct decoder *decoder, int64_t num_pixels) {
    if (num_pixels > decoder->num_pixels) {
        free(decoder->pixels);
        decoder->pixels = malloc(3 * num_pixels);
        decoder->num_pixels = decoder->pixels != NULL ? num_pixels : 0;
    }
    return num_pixels <= decoder->num_pixels;
}
