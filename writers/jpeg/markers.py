"""Check the markers of a JPEG up to its end, to find damage without decoding."""

import re

from writers.jpeg import native
from writers.jpeg.restart_index import DamagedJpegError

# A marker is 0xFF and a byte other than 0x00 and 0xFF: coded data have 0x00 after 0xFF, and 0xFF
# may be repeated before a marker.
MARKER = re.compile(rb"\xff[^\x00\xff]")
CUT_SHORT, OUT_OF_ORDER = -1, -2  # return codes, as in markers.c


def check_markers(jpeg: bytes, scan: int) -> None:
    """Check all markers of a JPEG from its first scan to its end. Raises DamagedJpegError.

    This finds truncation, segments that extend beyond the end, markers that are illegal in a scan,
    and missing or repeated restart markers. Data between two markers are not decoded.
    """
    library = native.library()
    marker = (
        library.harness_check_markers(jpeg, len(jpeg), scan)
        if library
        else check_slowly(jpeg, scan)
    )
    if marker:
        words = {CUT_SHORT: "it is cut short", OUT_OF_ORDER: "its restart markers are out of order"}
        raise DamagedJpegError(words.get(marker, f"a scan has the marker 0x{marker:02x}"))


def check_slowly(jpeg: bytes, position: int) -> int:
    """Check markers as markers.c does, in Python; used if the C library was not built.

    Returns:
        0, CUT_SHORT, OUT_OF_ORDER, or the marker that is illegal in a scan.
    """
    num_restarts = 0
    while marker := MARKER.search(jpeg, position):
        position, code = marker.end(), jpeg[marker.end() - 1]
        if code == 0xD9:
            return 0
        if 0xD0 <= code <= 0xD7:
            if code & 7 != num_restarts & 7:
                return OUT_OF_ORDER
            num_restarts += 1
        elif code in (0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE) or 0xE0 <= code <= 0xEF:
            position += int.from_bytes(jpeg[position : position + 2], "big")
            num_restarts = 0
        else:
            return code
    return CUT_SHORT
