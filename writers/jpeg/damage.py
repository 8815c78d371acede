"""Check whether a JPEG is damaged by reading its coded data, without computing pixels.

All errors and warnings of libjpeg occur while it reads markers and entropy-coded data, never while
it computes pixels. Reading the coefficients therefore finds the same damage as a full decode.
"""

import ctypes

from writers.jpeg import native, turbojpeg

MESSAGE_BYTES = 200  # size of the buffer for a message, as in restart.c


def check_coded_data(jpeg: bytes) -> None:
    """Read all coded data of a JPEG.

    Raises:
        turbojpeg.JpegError: the data are damaged. `turbojpeg.check` raises for the same files.
    """
    library = native.library()
    if library is None:
        turbojpeg.check(jpeg)
        return
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    library.harness_find_damage(jpeg, len(jpeg), message)
    if message.value:
        raise turbojpeg.JpegError(message.value.decode(errors="replace"))
