"""Read the EXIF orientation of a JPEG, PNG or WebP file. It is not applied, as in torchvision.

Formats: Exif 2.3 (CIPA DC-008), sections 4.5.2 and 4.6.4; PNG's chunk eXIf; WebP's chunk EXIF.
Pillow applies the orientation of a TIFF when it reads the pixels.
"""

import struct

UPRIGHT = 1
HEADER_BYTES = 2**16  # first bytes of a JPEG or PNG, in which cameras write EXIF
MARK = b"Exif\0\0"
TAG, SHORT = 0x0112, 3
MAX_ENTRIES = 256


def orientation(image: bytes) -> int:
    """Return the orientation, 1 to 8; 1 if there is none, or if it cannot be read.

    Args:
        image: content of an image file of any format.
    """
    begin = _exif_at(image)
    if begin is None:
        return UPRIGHT
    tiff = image[begin : begin + HEADER_BYTES].removeprefix(MARK)
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


def _exif_at(image: bytes) -> int | None:
    """Return the position of the EXIF data; None if there is none."""
    if image.startswith(b"\x89PNG"):
        begin, length = image.find(b"eXIf", 0, HEADER_BYTES), 4
    elif image[8:12] == b"WEBP":
        begin, length = image.rfind(b"EXIF"), 8  # the chunk's name and size; it follows the pixels
    else:
        begin, length = image.find(MARK, 0, HEADER_BYTES), 0
    return begin + length if begin >= 0 else None
