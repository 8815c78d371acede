/* Check the markers of a JPEG, as markers.py does, about a hundred times as fast. Runs without the
 * GIL. */

#include <stdint.h>
#include <string.h>

enum { CUT_SHORT = -1, OUT_OF_ORDER = -2 };

/* Check the markers from `position`, the start of the first scan, up to the end of the image.
 * Returns 0, CUT_SHORT, OUT_OF_ORDER (of restart markers), or the code of the first marker that is
 * not allowed there. */
int harness_check_markers(const uint8_t *jpeg, uint64_t size, uint64_t position) {
    const uint8_t *found;
    int num_restarts = 0;
    while (position < size && (found = memchr(jpeg + position, 0xFF, size - position)) != NULL) {
        position = found - jpeg + 1;
        if (position == size)
            break;
        const int code = jpeg[position];
        if (code == 0xFF)
            continue;       /* fill bytes before a marker */
        position++;
        if (code == 0x00)
            continue;       /* 0xFF in coded data */
        if (code == 0xD9)
            return 0;
        if (0xD0 <= code && code <= 0xD7) {
            if ((code & 7) != (num_restarts & 7))
                return OUT_OF_ORDER;
            num_restarts++;
        } else if (code == 0xC4 || (0xDA <= code && code <= 0xDD) || code == 0xFE || (0xE0 <= code && code <= 0xEF)) {
            if (size - position < 2)
                break;
            position += jpeg[position] << 8 | jpeg[position + 1];
            num_restarts = 0;
        } else {
            return code;
        }
    }
    return CUT_SHORT;
}
