"""Read the EXIF orientation of a JPEG. Neither this package nor torchvision applies it.

Format: Exif 2.3 (CIPA DC-008), sections 4.5.2 and 4.6.4.
"""

import struct

UPRIGHT = 1
HEADER_BYTES = 2**16  # first bytes of a JPEG, in which cameras write EXIF
MARK = b"Exif\0\0"
TAG, SHORT = 0x0112, 3
MAX_ENTRIES = 256


def orientation(jpeg: bytes) -> int:
    """Return the orientation, 1 to 8; 1 if there is none, or if it cannot be read."""
    begin = jpeg.find(MARK, 0, HEADER_BYTES)
    if begin < 0:
        return UPRIGHT
    tiff = jpeg[begin + len(MARK) : begin + HEADER_BYTES]
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (table,) = struct.unpack_from(f"{order}4xI", tiff)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, table)
        for number in range(min(num_entries, MAX_ENTRIES)):
            entry = struct.unpack_from(f"{order}HHIH", tiff, table + 2 + 12 * number)
            if entry[:2] == (TAG, SHORT):
                return int(entry[3]) if 1 <= entry[3] <= 8 else UPRIGHT
    except struct.error:  # EXIF is cut short, or an offset is outside of it
        return UPRIGHT
    return UPRIGHT
