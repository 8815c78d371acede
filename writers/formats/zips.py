"""A zip archive read where it lies: CLEVR's 19 GB and KITTI's 12 GB need not be unpacked.

Its table is read once. Each member is then read by its place, by several threads at a time, which `zipfile` itself does
only one after another.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from writers.errors import UserError

LOCAL_HEADER = struct.Struct(
    "<4s22xHH"
)  # signature, ..., bytes of the name and of the extra field behind it


class ZipFiles:
    def __init__(self, path: Path, keep: Callable[[str], bool]) -> None:
        """Raises UserError for a damaged archive, one with paths outside itself, and ways of packing other than deflate."""
        self._path = path
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise UserError(
                f"{path} is not a whole zip archive: {error}.", "Fetch it again."
            ) from error
        for member in members:
            name = PurePosixPath(member.filename)
            if name.is_absolute() or ".." in name.parts:
                raise UserError(
                    f"{path} names a file outside itself: {member.filename}",
                    "Do not trust this archive.",
                )
            if not member.is_dir() and keep(str(name)):
                if (
                    member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                    or member.flag_bits & 1
                ):
                    raise UserError(
                        f"{path} packs {member.filename} in a way that is not read here.",
                        "Unpack it yourself.",
                    )
                self._members[str(name)] = member

    def names(self) -> Sequence[str]:
        return list(self._members)

    def read(self, name: str) -> bytes:
        """Raises OSError for a member that is cut short or whose checksum differs."""
        member = self._members[name]
        with self._path.open("rb", buffering=0) as archive:
            header = os.pread(archive.fileno(), LOCAL_HEADER.size, member.header_offset)
            if len(header) != LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
                raise OSError(f"the archive is damaged at {name}")
            _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            start = member.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
            data = os.pread(archive.fileno(), member.compress_size, start)
        try:
            data = (
                zlib.decompress(data, -zlib.MAX_WBITS)
                if member.compress_type == zipfile.ZIP_DEFLATED
                else data
            )
        except zlib.error as error:
            raise OSError(f"the archive is damaged at {name}: {error}") from error
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise OSError(f"the archive is damaged at {name}")
        return data

    def where(self, name: str) -> str:
        return f"{self._path}:{name}"
