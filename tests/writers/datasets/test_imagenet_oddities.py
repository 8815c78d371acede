"""Known oddities of ImageNet and similar datasets, read from the official archive.

Pixels must equal those of torchvision's loader.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import default_loader

from tests.helpers.packed import official_of
from tests.helpers.pictures import picture
from writers.beton.encoding import JPEG, RAW, Encoding
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.formats.imagenet_val import image_name, shipped
from writers.source import ids_of
from writers.subset.spec import everything

WNID = "n01440764"


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def of_ink(adobe_transform: int) -> bytes:
    """Make a CMYK JPEG as Photoshop does, inverted; transform 2 marks it as YCCK.

    Pillow cannot write YCCK, but the same bytes can be marked as such.
    """
    data = bytearray(saved(picture(3).convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = adobe_transform
    return bytes(data)


def without_adobe_marker() -> bytes:
    """Make a CMYK JPEG without an Adobe marker."""
    data = of_ink(0)
    begin = data.index(b"Adobe") - 4
    return data[:begin] + data[begin + 16 :]


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    return saved(picture(4, 120, 100), "JPEG", exif=exif)


def sixteen_bit_rgb() -> bytes:
    values = np.random.default_rng(0).integers(0, 2**16, (100, 120, 3)).astype(">u2")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    lines = b"".join(b"\0" + line.tobytes() for line in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 120, 100, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


# one training image of ImageNet is a PNG and 22 are CMYK: tensorflow/models,
# build_imagenet_data.py
ODD = {
    "png": saved(picture(0), "PNG"),
    "cmyk": of_ink(0),
    "ycck": of_ink(2),
    "cmyk_unsaid": without_adobe_marker(),
    "rotated": rotated(),
    "gray": saved(picture(1, mode="L"), "JPEG"),
    "progressive": saved(picture(2), "JPEG", progressive=True),
    "rgba": saved(picture(5).convert("RGBA"), "PNG"),
    "gray_alpha": saved(picture(5).convert("LA"), "PNG"),
    "palette": saved(picture(6).quantize(32), "PNG"),
    "palette_transparent": saved(picture(6).quantize(32), "PNG", transparency=5),
    "palette_half_transparent": saved(
        picture(6).quantize(8), "PNG", transparency=bytes([0, 99, 255, 3])
    ),
    "one_bit": saved(picture(7).convert("1"), "PNG"),
    "sixteen_bit_rgb": sixteen_bit_rgb(),
    "bmp": saved(picture(8), "BMP"),
    "gif": saved(picture(9).quantize(64), "GIF"),
    "gif_animated": saved(
        picture(9).quantize(64), "GIF", save_all=True, append_images=[picture(10).quantize(64)]
    ),
    "webp": saved(picture(10), "WEBP", lossless=True),
    "tiff": saved(picture(11), "TIFF"),
    "trailing": saved(picture(12), "JPEG") + b"\0" * 300 + b"camera",
}
JPEGS = {"rotated", "gray", "progressive", "trailing"}  # decoders convert these to RGB
BROKEN = {
    "truncated": saved(picture(13), "JPEG")[:-400],
    "truncated_png": ODD["png"][:900],
    "empty": b"",
    "text": b"404 Not Found\n",
    "jpeg_header_only": ODD["gray"][:4],
}


def imagenet(folder: Path, images: dict[str, bytes]) -> tuple[Path, Path]:
    """Make an extracted tree, and the official archives with the same images.

    Returns the folder of the tree and that of the archives.
    """
    tree, archives = folder / "tree", folder / "archives"
    val = image_name(shipped().index(WNID) + 1)
    for path, data in [(f"val/{WNID}/{val}", saved(picture(0), "JPEG"))] + [
        (f"train/{WNID}/{WNID}_{name}.JPEG", data) for name, data in images.items()
    ]:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    archives.mkdir()
    return tree, official_of(tree, archives)


def stored(
    archives: Path, file: Path, encoding: Encoding
) -> dict[str, tuple[int, bytes, np.ndarray]]:
    """Write a beton; return name of an image -> its mode, bytes and pixels, uint8 [H, W, 3]."""
    source = open_dataset("imagenet", archives, SplitSettings())
    write_split(source, "train", everything(source.classes), encoding, file)
    assert verify(file) == []
    beton, data = open_beton(file), file.read_bytes()
    examples = source.splits["train"]
    name_of = {
        sample_id: example.name
        for sample_id, example in zip(ids_of(examples).tolist(), examples, strict=True)
    }
    sizes = {int(row["offset"]): int(row["size"]) for row in beton.blobs}
    images = {}
    for row, sample_id in zip(beton.rows, beton.ids.tolist(), strict=True):
        blob = data[int(row["offset"]) : int(row["offset"]) + sizes[int(row["offset"])]]
        shape = int(row["height"]), int(row["width"]), 3
        pixels = (
            np.frombuffer(blob, np.uint8).reshape(shape)
            if row["mode"] == RAW
            else np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
        )
        images[name_of[sample_id].removeprefix(f"{WNID}/{WNID}_")] = int(row["mode"]), blob, pixels
    return images


def test_pixels_equal_those_of_torchvision(tmp_path: Path):
    tree, archives = imagenet(tmp_path, ODD)
    images = stored(archives, tmp_path / "raw.beton", Encoding(format="raw"))
    assert set(images) == set(ODD)
    for name, (_, _, pixels) in images.items():
        expected = np.asarray(default_loader(str(tree / "train" / WNID / f"{WNID}_{name}.JPEG")))
        assert pixels.shape == expected.shape and (pixels == expected).all(), name


def test_passthrough_keeps_plain_jpegs_and_encodes_the_rest(tmp_path: Path):
    tree, archives = imagenet(tmp_path, ODD)
    for name, (mode, blob, pixels) in stored(
        archives, tmp_path / "kept.beton", Encoding(format="passthrough")
    ).items():
        expected = np.asarray(
            default_loader(str(tree / "train" / WNID / f"{WNID}_{name}.JPEG")), float
        )
        assert mode == JPEG
        assert (blob == ODD[name]) == (name in JPEGS), name
        assert pixels.shape == expected.shape
        if name not in ("one_bit", "sixteen_bit_rgb"):  # noise, which JPEG distorts
            # Other formats are encoded as JPEG.
            assert np.abs(pixels - expected).mean() < 6, name


def test_sixteen_bit_gray_is_scaled_although_pillow_clips_it(tmp_path: Path):
    values = np.linspace(0, 2**16 - 1, 120 * 100).reshape(100, 120).astype(np.uint16)
    _, archives = imagenet(tmp_path, {"gray16": saved(Image.fromarray(values), "PNG")})
    _, _, pixels = stored(archives, tmp_path / "raw.beton", Encoding(format="raw"))["gray16"]
    # Both ways of rounding are valid.
    assert np.abs(pixels.astype(float) - (values / 257.0)[..., None]).max() < 1


@pytest.mark.parametrize("format", ["raw", "jpeg", "passthrough"])
def test_incomplete_images_are_named_or_skipped(tmp_path: Path, format: str):
    _, archives = imagenet(tmp_path, {"good": ODD["gray"]} | BROKEN)
    source = open_dataset("imagenet", archives, SplitSettings())
    arguments = (
        source,
        "train",
        everything(source.classes),
        Encoding(format=format),
        tmp_path / "train.beton",
    )
    with pytest.raises(UserError, match=f"^{len(BROKEN)} images cannot be read") as caught:
        write_split(*arguments)
    for name in BROKEN:
        assert f"ILSVRC2012_img_train.tar:train/{WNID}/{WNID}_{name}.JPEG: " in str(caught.value)
    manifest = write_split(*arguments, on_error="skip")
    assert manifest.num_samples == 1
    assert [entry["name"] for entry in manifest.skipped] == sorted(
        f"{WNID}/{WNID}_{name}" for name in BROKEN
    )
