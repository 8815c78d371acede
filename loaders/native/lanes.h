/* Decode the Huffman codes of the segments under the crops, three segments at a time; lanes.c
 * describes the method. */

#ifndef HARNESS_LANES_H
#define HARNESS_LANES_H

#include "../kernel.h"

/* One of the blocks that make up an MCU. */
struct mcu_block {
    int component;
    int across, down;           /* blocks of this component in an MCU, along each axis */
    int x, y;                   /* place of this block among them */
    const struct huffman *dc, *ac;
    /* [rows, blocks_per_row, 64] of the component in the part, natural order */
    JCOEF *coefficients;
    int64_t blocks_per_row;
};

/* The segments of one image, and the memory to decode them. */
struct lanes {
    struct entropy *entropy;    /* segments of the part, row by row, and Huffman tables */
    int64_t segments_per_row, next_segment;     /* next_segment: the first that no lane has begun */
    int blocks_in_mcu;
    struct mcu_block mcu[D_MAX_BLOCKS_IN_MCU];
    /* Room for a copy of one segment of each lane: the blob's bytes, and PADDING. */
    uint8_t *clean[NUM_LANES];
};

/* Decode all segments that the crops need. Errors end in a longjmp to entropy->failed. */
void decode_lanes_scalar(struct lanes *lanes);
void decode_lanes_avx2(struct lanes *lanes);

#endif
