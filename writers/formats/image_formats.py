"""The image formats that are read: their file extensions and their first bytes.

A file with one of `IMAGE_EXTENSIONS` is an image, unless it is hidden. A file with another
extension is an image if it begins like one of these formats, unless the extension is in
`OTHER_EXTENSIONS`.
"""

import re

# Pillow's name of a format -> file extensions. JPEG includes MPO, which cameras write.
EXTENSIONS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "QOI": (".qoi",),
}
IMAGE_EXTENSIONS = tuple(
    extension for extensions in EXTENSIONS_OF.values() for extension in extensions
)
# Extensions of files that often accompany images. Such files are not opened to detect images.
OTHER_EXTENSIONS = frozenset(
    f".{extension}"
    for extensions in (
        ("txt", "md", "rst", "csv", "tsv", "json", "jsonl", "yaml", "yml", "xml", "html", "htm"),
        ("pdf", "log", "ini", "cfg", "toml", "py", "ipynb", "sh", "mat", "npy", "npz", "pkl"),
        ("pickle", "pt", "pth", "h5", "hdf5", "parquet", "arrow", "db", "sqlite", "tfrecord"),
        ("tar", "gz", "tgz", "zip", "bz2", "xz", "rar", "7z", "zst", "md5", "sha1", "sha256"),
        ("svg", "eps", "mp4", "avi", "mov", "wav", "mp3"),
    )
    for extension in extensions
)
MAX_IMAGE_BYTES = 2**30  # size of an image file; larger files are not read
HEAD_BYTES = 32  # bytes that `format_of` needs

_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_PNM = re.compile(rb"P[1-6f][ \t\r\n][ \t\r\n]*[#\d]")
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"qoif", "QOI"),
)

HEIC, JPEG_XL = "a HEIC image or a video", "a JPEG XL image"
UNREAD_IMAGES = (HEIC, JPEG_XL)
_OTHER_STARTS = (  # first bytes in lower case, and what the file is
    (b"<!doctype html", "an HTML page, as from a failed download"),
    (b"<html", "an HTML page, as from a failed download"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML, such as an SVG drawing"),
    (b"version https://git-lfs", "a pointer of Git LFS, not its file; run git lfs pull"),
    (b"%pdf-", "a PDF document"),
    (b"pk\x03\x04", "a zip archive"),
)


def format_of(head: bytes) -> str | None:
    """Return the format of a file by its first HEAD_BYTES, or None if it is another format."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if _PNM.match(head):
        return "PPM"
    return next((name for start, name in _STARTS if head.startswith(start)), None)


def other_format_of(head: bytes) -> str | None:
    """Describe a file that people often take for a readable image, by its first HEAD_BYTES.

    None if the format is read here, or unknown.
    """
    if head[4:8] == b"ftyp":
        return None if head[8:12] in (b"avif", b"avis") else HEIC
    if head[:2] == b"\xff\x0a" or head[4:12] == b"JXL \r\n\x87\n":
        return JPEG_XL
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((name for start, name in _OTHER_STARTS if text.startswith(start)), None)


def is_image(path: str) -> bool:
    """Return True for a path with an image's extension, unless it is a hidden file."""
    return path.lower().endswith(IMAGE_EXTENSIONS) and not path.rsplit("/", 1)[-1].startswith(".")


def extension_of(path: str) -> str:
    """Return the lower-case extension of a file name with its dot, or "" if it has none."""
    stem, dot, extension = path.rsplit("/", 1)[-1].rpartition(".")
    return f".{extension.lower()}" if dot and stem else ""
