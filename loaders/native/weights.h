/* The weights of the resize along an axis. */

#ifndef HARNESS_WEIGHTS_H
#define HARNESS_WEIGHTS_H

#include "resize.h"

/* Upper bound of the source pixels that an output pixel needs. */
int64_t most_needed(int64_t source, int64_t target, enum interpolation interpolation);

/* Fill starts, counts, values and most. */
void fill_weights(struct weights *weights, int64_t source, int64_t target, enum interpolation interpolation, int mirrored);

/* Fill the tables of bytes for vector code, of 16-byte or of 64-byte windows. Returns has_bytes, 0 if the weights have no such
 * tables. */
int fill_bytes(struct weights *weights, int has_windows);

/* Fill the tables of words for vector code, likewise. */
void fill_shuffles(struct weights *weights);
void fill_windows(struct weights *weights);

#endif
