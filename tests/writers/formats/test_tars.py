"""Tars are listed as by `tarfile`, and refused if damaged, truncated or misleading."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writers.errors import UserError
from writers.formats.files import open_files
from writers.formats.tars import members, open_tar

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}
PART = st.text("abcé漢 .-_", min_size=1, max_size=90).filter(
    lambda part: part not in (".", "..") and part == part.strip()
)
NAMES = st.lists(
    st.lists(PART, min_size=1, max_size=4).map("/".join), min_size=0, max_size=12, unique=True
)


def pack(path: Path, content: dict[str, bytes], format: int = tarfile.GNU_FORMAT, **fields) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def listed(path: Path) -> list:
    with path.open("rb") as archive:
        return [
            (member.name, member.offset, member.size) for member in members(archive.fileno(), path)
        ]


@settings(max_examples=60, deadline=None)
@given(NAMES, st.sampled_from(sorted(FORMATS)), st.integers(0, 3), st.sampled_from([0, 1.5]))
def test_members_and_offsets_equal_tarfile(
    tmp_path_factory, names: list, format: str, seed: int, mtime: float
):
    path = tmp_path_factory.mktemp("tars") / "a.tar"
    sizes = [0, 1, 511, 512, 513, 5000]
    try:
        pack(
            path,
            {
                name: bytes([number]) * sizes[(number + seed) % 6]
                for number, name in enumerate(names)
            },
            FORMATS[format],
            mtime=mtime,
        )
    except ValueError:  # the name is too long for ustar
        return
    with tarfile.open(path) as archive:
        expected = [
            (
                "/".join(part for part in member.name.split("/") if part not in ("", ".")),
                member.offset_data,
                member.size,
            )
            for member in archive
        ]
    assert listed(path) == expected


def test_sizes_beyond_eight_gibibytes_are_read(tmp_path: Path):
    """The formats are GNU and POSIX; the file has a hole instead of data."""
    for name, format in FORMATS.items():
        if name == "ustar":
            continue
        path, size = tmp_path / f"{name}.tar", 9 * 2**30 + 5
        member = tarfile.TarInfo("large")
        member.size = size
        header = member.tobuf(format)
        with path.open("wb") as file:
            file.write(header)
            file.seek(-(-size // 512) * 512, 1)
            file.write(bytes(1024))
        assert listed(path) == [("large", len(header), size)]
        with pytest.raises(UserError, match="an image of more than"):
            open_tar(path, lambda name: True)


def test_links_among_images_are_refused_and_others_skipped(tmp_path: Path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE):
        path = pack(
            tmp_path / "links.tar", {"train/cat/1.jpg": b""}, type=kind, linkname="/etc/passwd"
        )
        with pytest.raises(UserError, match=r"links\.tar: train/cat/1\.jpg is a link"):
            open_files(path)
        assert open_files(path, lambda name: name.endswith(".png")).names() == []


def test_folders_named_like_images_are_skipped(tmp_path: Path):
    assert (
        open_files(pack(tmp_path / "a.tar", {"odd.jpg": b""}, type=tarfile.DIRTYPE)).names() == []
    )


@pytest.mark.parametrize("name", ["/etc/1.jpg", "../1.jpg", "a/../../1.jpg"])
def test_names_outside_the_archive_are_refused(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=rf"evil\.tar names a file outside itself: {name}"):
        open_files(pack(tmp_path / "evil.tar", {name: b"x"}))


def test_a_duplicate_name_is_refused(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {"cat/1.jpg": b"x", "./cat/1.jpg": b"y"})
    with pytest.raises(UserError, match=r"a\.tar has cat/1\.jpg twice"):
        open_files(path)


def test_names_that_are_not_utf8_are_decoded_like_file_names(tmp_path: Path):
    with tarfile.open(
        tmp_path / "latin.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as archive:
        archive.addfile(tarfile.TarInfo("caf\u00e9.jpg"))
    assert [name for name, *_ in listed(tmp_path / "latin.tar")] == [os.fsdecode(b"caf\xe9.jpg")]


def test_a_truncated_tar_is_refused(tmp_path: Path):
    """Includes cuts between two members, which `tarfile` does not detect."""
    path = pack(tmp_path / "a.tar", {f"cat/{number}.jpg": bytes(700) for number in range(3)})
    data, end = path.read_bytes(), 3 * (512 + 1024)
    for size in [*range(1, end, 97), 512, 1536, 1536 + 512, 3072, end]:
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"a\.tar is not a complete, uncompressed tar archive"):
            open_tar(path, lambda name: True)
    path.write_bytes(data[: end + 512])
    assert len(open_tar(path, lambda name: True).names()) == 3


def test_a_flipped_byte_in_a_header_is_detected(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {f"cat/{number}.jpg": bytes(700) for number in range(3)})
    data = path.read_bytes()
    for place in [*range(1536, 1536 + 512, 7)]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        with pytest.raises(UserError, match="no member begins at byte 1,536"):
            listed(path)


@pytest.mark.parametrize("size", [b"-0000000512\0", b"0000000000x\0", b"\xff" * 12])
def test_invalid_sizes_are_refused(tmp_path: Path, size: bytes):
    path = pack(tmp_path / "a.tar", {"1.jpg": bytes(700)})
    data = bytearray(path.read_bytes())
    data[124:136], data[148:156] = size, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"the size of a member is not a number|it ends inside"):
        listed(path)


def test_damaged_extended_headers_are_refused(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {"é" * 120: b"x"}, tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    place = data.index(b"path=")
    data[place - 4 : place] = b"???="
    path.write_bytes(data)
    with pytest.raises(UserError, match="extended headers"):
        listed(path)
    data[place - 4 : place + 5] = b"size=-512"
    path.write_bytes(data)
    with pytest.raises(UserError, match="extended headers"):
        listed(path)
