"""Writing, passing through, checking raw files and verifying agree on damaged JPEGs."""

import io
import random
from pathlib import Path

import pytest

from tests.helpers.pictures import picture
from writers.beton.encode import UnreadableError, check_image, encode
from writers.beton.encoding import Encoding
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.jpeg import native, turbojpeg
from writers.jpeg.damage import check_coded_data
from writers.subset.spec import everything

KINDS = ({}, {"progressive": True}, {"subsampling": "4:4:4"}, {"restart_marker_blocks": 3})


def jpeg(seed: int, mode: str = "RGB", **settings: object) -> bytes:
    file = io.BytesIO()
    picture(seed, 120, 90, mode).save(file, "JPEG", quality=85, **settings)
    return file.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Change, remove or insert a few bytes after the start marker, or cut the end off."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(2, len(damaged))
        kind = draw.random()
        if kind < 0.5:
            damaged[place] = draw.randrange(256)
        elif kind < 0.7:
            del damaged[place : place + draw.randrange(1, 20)]
        elif kind < 0.9:
            damaged[place:place] = draw.randbytes(draw.randrange(1, 6))
        elif place > 100:
            del damaged[place:]
    return bytes(damaged)


def refuses(check, data: bytes) -> bool:
    try:
        check(data)
    except (UnreadableError, turbojpeg.JpegError):
        return True
    return False


def test_all_checks_agree_on_mutated_files():
    draw = random.Random(7)
    whole = [jpeg(3, mode, **kind) for kind in KINDS for mode in ("RGB", "L")]
    checks = {
        "passthrough": lambda data: encode(data, Encoding(format="passthrough")),
        "jpeg": lambda data: encode(data, Encoding()),
        "raw": lambda data: encode(data, Encoding(format="raw")),
        "verify-raw": check_image,
    }
    num_damaged = 0
    for data in (*whole, *(mutated(draw.choice(whole), draw) for _ in range(1500))):
        verdicts = {name: refuses(check, data) for name, check in checks.items()}
        assert len(set(verdicts.values())) == 1, (verdicts, data.hex())
        num_damaged += verdicts["passthrough"]
    assert 300 < num_damaged < 1400


@pytest.mark.skipif(native.library() is None, reason="the C library was not built")
def test_checking_coded_data_equals_a_full_decode():
    draw = random.Random(8)
    whole = [jpeg(4, mode, **kind) for kind in KINDS for mode in ("RGB", "L")]
    for _ in range(3000):
        data = mutated(draw.choice(whole), draw)
        assert refuses(check_coded_data, data) == refuses(turbojpeg.check, data), data.hex()


def test_a_passed_through_beton_verifies(tmp_path: Path):
    draw = random.Random(9)
    (tmp_path / "t" / "a").mkdir(parents=True)
    for number in range(60):
        data = jpeg(number % 3, **KINDS[number % 4])
        data = data if number % 2 else mutated(data, draw)
        (tmp_path / "t" / "a" / f"{number}.jpg").write_bytes(data)
    source = open_dataset("folder", tmp_path / "t", SplitSettings(val=0))
    file, subset = tmp_path / "train.beton", everything(source.classes)
    encoding = Encoding(format="passthrough")
    with pytest.raises(UserError, match="cannot be read"):
        write_split(source, "train", subset, encoding, file)
    manifest = write_split(source, "train", subset, encoding, file, on_error="skip")
    assert 30 <= manifest.num_samples < 60
    assert verify(file) == []
    unchecked = write_split(source, "train", subset, encoding, file, on_error="skip", check=False)
    assert unchecked.num_samples > manifest.num_samples
    assert len(verify(file)) == unchecked.num_samples - manifest.num_samples
