/* Read `dct` blobs, in plain C; blob.h defines the layout. Damaged blobs cause no read outside
 * their bytes and `scratch`: positions are checked before each block, and DCT_AHEAD covers the
 * rest. */

#include "blob.h"

static uint64_t mixed(uint64_t sum, const uint8_t *bytes, int64_t size) {
    for (int64_t i = 0; i < size; i += 8) {
        uint64_t word = dct_u32(bytes + i) | (uint64_t)dct_u32(bytes + i + 4) << 32;
        sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
        sum ^= sum >> 32;
    }
    return sum;
}

uint32_t dct_checksum(const uint8_t *blob, int64_t size) {
    uint8_t header[24];
    memcpy(header, blob, 24);
    memset(header + 12, 0, 4);
    return (uint32_t)mixed(mixed(0, header, 24), blob + 24, size - 24);
}

int64_t dct_lay_out(struct dct_image *image) {
    int64_t num_rows = 0;
    for (int c = 0; c < image->num_components; c++) {
        struct dct_component *component = &image->components[c];
        component->width = c > 0 && image->halved_across ? (image->width + 1) / 2 : image->width;
        component->height = c > 0 && image->halved_down ? (image->height + 1) / 2 : image->height;
        component->blocks_per_row = (component->width + 7) / 8;
        component->num_rows = (component->height + 7) / 8;
        component->num_runs = (component->blocks_per_row + DCT_RUN - 1) / DCT_RUN;
        component->first_row = num_rows;
        num_rows += component->num_rows;
    }
    return num_rows;
}

int open_dct(struct dct_image *image, const uint8_t *blob, int64_t size) {
    if (size < DCT_HEADER + 128 + 8 || memcmp(blob, "hdct", 4) != 0 || blob[4] != DCT_VERSION)
        return 0;
    int num_components = blob[5], halved = blob[6], num_tables = blob[7];
    *image = (struct dct_image){.blob = blob, .size = size, .width = dct_u16(blob + 8), .height = dct_u16(blob + 10),
                                .num_components = num_components, .halved_across = halved & 1, .halved_down = halved >> 1};
    if ((num_components != 1 && num_components != 3) || halved > 3 || (halved && num_components == 1) || num_tables < 1 ||
        num_tables > num_components || image->width == 0 || image->height == 0)
        return 0;
    int64_t num_rows = dct_lay_out(image), tables = DCT_HEADER, rows = tables + 128 * num_tables;
    int64_t begin = (rows + 4 * (num_rows + 1) + 7) / 8 * 8;
    if (begin > size || dct_u32(blob + 12) != dct_checksum(blob, begin))
        return 0;
    image->rows = blob + rows;
    for (int c = 0; c < num_components; c++) {
        if (blob[16 + c] >= num_tables)
            return 0;
        for (int k = 0; k < 64; k++)
            image->components[c].table[k] = (int16_t)dct_u16(blob + tables + 128 * blob[16 + c] + 2 * k);
    }
    int64_t before = begin;
    for (int64_t i = 0; i <= num_rows; i++) {
        int64_t row = dct_u32(image->rows + 4 * i);
        if (row < before || row > size)
            return 0;
        before = row;
    }
    return dct_u32(image->rows) == begin && before == size;
}

int find_run(const struct dct_image *image, const struct dct_component *component, int64_t row, int64_t number,
             struct dct_run *run, uint8_t *scratch) {
    const uint8_t *rows = image->rows + 4 * (component->first_row + row);
    int64_t row_begin = dct_u32(rows), row_end = dct_u32(rows + 4), num_runs = component->num_runs;
    if (row_end - row_begin < 2 * num_runs)
        return 0;
    const uint8_t *starts = image->blob + row_begin;
    int64_t begin = row_begin + dct_u16(starts + 2 * number);
    int64_t end = number + 1 < num_runs ? row_begin + dct_u16(starts + 2 * number + 2) : row_end;
    if (begin < row_begin + 2 * num_runs || end < begin + DCT_RUN_HEADER || end > row_end)
        return 0;
    const uint8_t *from = image->blob + begin;
    if (end + DCT_AHEAD > image->size) {
        if (end - begin > DCT_MAX_RUN)
            return 0;
        memcpy(scratch, from, end - begin);
        memset(scratch + (end - begin), 0, DCT_AHEAD);
        from = scratch;
    }
    int64_t left = component->blocks_per_row - DCT_RUN * number;
    run->num_blocks = left < DCT_RUN ? left : DCT_RUN;
    run->groups = from[0], run->dc_bits = from[1], run->dc_min = (int16_t)dct_u16(from + 2);
    run->dc = from + DCT_RUN_HEADER;
    if (run->groups > DCT_GROUPS || run->dc_bits > 16)
        return 0;
    run->codes = run->dc + (run->num_blocks * run->dc_bits + 7) / 8;
    run->blocks = run->codes + (run->num_blocks * run->groups * DCT_CODE_BITS + 7) / 8;
    run->end = from + (end - begin);
    return run->blocks <= run->end;
}

int64_t dct_block_size(const uint8_t *from, uint32_t codes, int groups) {
    int64_t bits = 0, num_bitmaps = 0;
    for (int g = 0; g < groups; g++, codes >>= DCT_CODE_BITS)
        if (codes & 7)
            bits += dct_bits_of(g, codes & 7) * __builtin_popcount(from[num_bitmaps++]);
    return num_bitmaps + (bits + 7) / 8;
}

/* Return the next `count` bits, at most 25, and advance `*bit`. */
static uint32_t take_bits(const uint8_t *bytes, int64_t *bit, int count) {
    uint32_t value = dct_u32(bytes + *bit / 8) >> *bit % 8 & ((1u << count) - 1);
    *bit += count;
    return value;
}

/* Decode the block at `from` to `block` [64], natural order. Returns the start of the next
 * block. */
static const uint8_t *read_block(const uint8_t *from, uint32_t codes, int groups, int16_t dc, int16_t *block) {
    int64_t num_bitmaps = 0, bit;
    memset(block, 0, 64 * sizeof *block);
    block[0] = dc;
    for (int g = 0; g < groups; g++)
        num_bitmaps += (codes >> DCT_CODE_BITS * g & 7) != 0;
    bit = 8 * num_bitmaps;
    for (int wide = 0; wide < 2; wide++) {
        const uint8_t *bitmap = from;
        for (int g = 0; g < groups; g++) {
            int code = codes >> DCT_CODE_BITS * g & 7;
            if (code == 0)
                continue;
            int present = *bitmap++, bits = dct_bits_of(g, code), lowest = -(1 << (bits - 1));
            if ((code == DCT_WIDE) != wide)
                continue;
            for (int k = 0; k < 8; k++)
                if (present >> k & 1) {
                    int value = lowest + (int)take_bits(from, &bit, bits);
                    value += value >= 0;
                    /* Wrap as the signed bytes of vector code do. Writers never store 128. */
                    if (bits == 8)
                        value = (int8_t)value;
                    if (8 * g + k > 0)      /* a damaged bitmap may mark DC */
                        block[DCT_ZIGZAG[8 * g + k]] = (int16_t)value;
                }
        }
    }
    return from + (bit + 7) / 8;
}

int read_dct_blocks(const struct dct_image *image, int component, int64_t row, int64_t first, int64_t count, int16_t *blocks) {
    const struct dct_component *part = &image->components[component];
    uint8_t scratch[DCT_MAX_RUN + DCT_AHEAD];
    for (int64_t number = first / DCT_RUN; number <= (first + count - 1) / DCT_RUN; number++) {
        struct dct_run run;
        if (!find_run(image, part, row, number, &run, scratch))
            return 0;
        const uint8_t *at = run.blocks;
        for (int64_t i = 0; i < run.num_blocks && at <= run.end; i++) {
            int64_t place = DCT_RUN * number + i - first;
            if (place >= count)
                break;
            uint32_t codes = dct_codes(&run, i);
            if (place < 0)
                at += dct_block_size(at, codes, run.groups);
            else
                at = read_block(at, codes, run.groups, dct_dc(&run, i), blocks + 64 * place);
            if (i == run.num_blocks - 1 && at != run.end)
                return 0;
        }
        if (at > run.end)
            return 0;
    }
    return 1;
}
