/* Constants of the color conversion, in units of 1 / 65536; upsample_color.c has the equations. */

#ifndef HARNESS_UPSAMPLE_COLOR_H
#define HARNESS_UPSAMPLE_COLOR_H

enum { FIX_1_402 = 91881, FIX_1_772 = 116130, FIX_0_344 = 22554, FIX_0_714 = 46802, HALF = 32768, ONE = 65536 };

#endif
