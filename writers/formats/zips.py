"""Read a zip archive without unpacking, such as those of CLEVR (19 GB) and KITTI (12 GB).

The table of the archive is read once. Threads then read members by offset at the same time; with
`zipfile`, they would wait for each other.
"""

import contextlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from writers.errors import UserError
from writers.formats.members import check_name, check_size, outside, twice

ENCRYPTED_FLAG, UTF8_FLAG = 1, 1 << 11  # bits of a member's general purpose flags
# limit of the bytes that deflate may add to a file, which are 5 per block of at most 64 KiB
MAX_OVERHEAD = 2**20
MAX_HEAD_OVERHEAD = 4096  # limit of the bytes of deflate's tables before the first content
# Signature; 22 bytes that are not used; lengths of the name and of the extra field after it.
LOCAL_HEADER = struct.Struct("<4s22xHH")


class ZipFiles:
    """Files of a zip archive whose names pass `keep`."""

    def __init__(self, path: Path, keep: Callable[[str], bool]) -> None:
        """Read the table of an archive.

        Raises:
            UserError: the archive is damaged, a path points outside it, or a file that passes
                `keep` is encrypted, a link, too large, there twice, or not compressed by deflate.
        """
        self._path = path
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise UserError(
                f"{path} is not a complete zip archive: {error}.", "Download it again."
            ) from error
        for member in members:
            name = PurePosixPath(_name(member))
            if name.is_absolute() or ".." in name.parts:
                raise outside(path, member.filename)
            check_name(path, member.filename)
            if not _name(member).endswith("/") and keep(str(name)):
                if member.flag_bits & ENCRYPTED_FLAG:
                    raise UserError(
                        f"{path} is encrypted.", "Unpack it with its password, and pass the folder."
                    )
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise UserError(
                        f"{path}: {member.filename} is a link, which is not read.",
                        "Pack the files themselves: zip without -y.",
                    )
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(
                        f"{path} compresses {member.filename} with an unsupported method.",
                        "Unpack it yourself.",
                    )
                check_size(path, member.filename, member.file_size)
                if str(name) in self._members:
                    raise twice(path, str(name))
                self._members[str(name)] = member

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """Read a member. Raises OSError if it is cut short or its checksum differs."""
        member = self._members[name]
        if member.compress_size > member.file_size + MAX_OVERHEAD:
            raise OSError(f"the archive is damaged at {name}")
        # Read at most one byte more than the stated size, so that memory is bounded.
        data = self._begin(name, member.compress_size, member.file_size + 1)
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise OSError(f"the archive is damaged at {name}")
        return data

    def head(self, name: str, size: int) -> bytes:
        """Read the first bytes. Raises OSError."""
        num_stored = min(self._members[name].compress_size, size + MAX_HEAD_OVERHEAD)
        return self._begin(name, num_stored, size)[:size]

    def _begin(self, name: str, num_stored: int, max_bytes: int) -> bytes:
        """Decompress the first `num_stored` bytes of a member, to at most `max_bytes`.

        If the member is not compressed, all of these bytes are returned. Raises OSError.
        """
        member = self._members[name]
        with self._path.open("rb", buffering=0) as archive:
            header = os.pread(archive.fileno(), LOCAL_HEADER.size, member.header_offset)
            if len(header) != LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
                raise OSError(f"the archive is damaged at {name}")
            _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            start = member.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
            data = os.pread(archive.fileno(), num_stored, start)
        if member.compress_type != zipfile.ZIP_DEFLATED:
            return data
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max_bytes)
        except zlib.error as error:
            raise OSError(f"the archive is damaged at {name}: {error}") from error

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return f"{self._path}:{name}"


def _name(member: zipfile.ZipInfo) -> str:
    """Return the path of a member with / as separator.

    Windows programs write backslashes. macOS writes UTF-8 without the flag for it, and `zipfile`
    then decodes the name as code page 437; this is corrected.
    """
    name = member.filename
    if not member.flag_bits & UTF8_FLAG and not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")
