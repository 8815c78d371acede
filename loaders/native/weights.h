/* The weights of the resize along an axis. */

#ifndef HARNESS_WEIGHTS_H
#define HARNESS_WEIGHTS_H

#include "resize.h"

/* Return an upper bound of the number of source pixels that an output pixel needs. `source` and
 * `target` are lengths of the axis, in source and output pixels. */
int64_t most_needed(int64_t source, int64_t target, enum interpolation interpolation);

/* Fill starts, counts, values, most and has_negative. If `mirrored` is 1, output pixels are in
 * reverse order. */
void fill_weights(struct weights *weights, int64_t source, int64_t target, enum interpolation interpolation, int mirrored);

/* Fill the tables of bytes for vector code, with windows of 16 bytes, or of 64 with has_windows.
 * Sets and returns has_bytes. */
int fill_bytes(struct weights *weights, int has_windows);

/* Fill the tables of words for vector code, with windows of 16 bytes (fill_shuffles) or 64
 * (fill_windows). Set is_narrow. */
void fill_shuffles(struct weights *weights);
void fill_windows(struct weights *weights);

#endif
