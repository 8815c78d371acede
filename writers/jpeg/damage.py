"""Judge whether a JPEG file is damaged, by its coded data and without computing pixels.

libjpeg's errors and warnings arise while it reads markers and entropy-coded data, never while it
computes pixels. Reading coefficients therefore gives the verdict of a full decode.
"""

import ctypes

from writers.jpeg import native, turbojpeg

MESSAGE_BYTES = 200  # as in restart.c


def check_coded_data(jpeg: bytes) -> None:
    """Read all coded data of a JPEG.

    Raises:
        turbojpeg.JpegError: damage, exactly if `turbojpeg.check` raises it.
    """
    library = native.library()
    if library is None:
        turbojpeg.check(jpeg)
        return
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    library.harness_find_damage(jpeg, len(jpeg), message)
    if message.value:
        raise turbojpeg.JpegError(message.value.decode(errors="replace"))
