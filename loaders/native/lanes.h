/* Huffman decoding of the segments under a crop, three at a time; lanes.c describes how. */

#ifndef HARNESS_LANES_H
#define HARNESS_LANES_H

#include "../kernel.h"

/* A block of an MCU. */
struct mcu_block {
    int component;
    int across, down;           /* blocks of its component in an MCU */
    int x, y;                   /* its position among them */
    const struct huffman *dc, *ac;
    JCOEF *coefficients;        /* of its component: [rows, blocks_per_row, 64] in natural order */
    int64_t blocks_per_row;
};

struct lanes {
    struct entropy *entropy;    /* its segments, row by row; its tables */
    int64_t segments_per_row, next_segment;
    int blocks_in_mcu;
    struct mcu_block mcu[D_MAX_BLOCKS_IN_MCU];
    uint8_t *clean[NUM_LANES];  /* memory for the longest segment, and PADDING */
};

/* Decode all segments. Errors end in a longjmp to entropy->failed. */
void decode_lanes_scalar(struct lanes *lanes);
void decode_lanes_avx2(struct lanes *lanes);

#endif
