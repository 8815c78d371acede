"""Download a dataset's files, verify them, and unpack archives.

    voc2007/VOCtest_06-Nov-2007.tar.part        incomplete file, which the next attempt continues
    voc2007/VOCtest_06-Nov-2007.tar             complete file with the published size and checksum
    dmlab/.dmlab.tar.gz.unpacked                marks that the archive is unpacked; it may then be
                                                deleted

Checksums are those of torchvision if it has them. Torchvision's downloader is not used, because it
cannot resume.
"""

import gzip
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from writers.beton.store import Progress
from writers.dataset import Download
from writers.errors import UserError
from writers.lock import locked

CHUNK = 2**20  # bytes per read
TIMEOUT_S = 60  # seconds to wait for the host's next bytes
GONE = (401, 403, 404, 410)  # HTTP status codes for which a later attempt does not help


def fetch(download: Download, folder: Path, progress: Progress | None = None) -> bool:
    """Download one file to `folder`, verify it, and unpack it if requested.

    Args:
        download: the file and its checksum.
        folder: created if missing.
        progress: called with the number of bytes received and in total.

    Returns:
        True if the file was downloaded or unpacked, False if there was nothing to do.

    Raises:
        UserError: no host serves the file; the connection ended (the next call resumes); the
            content is not the published one (a new download is removed, an existing file is kept);
            or the archive cannot be unpacked.
    """
    target = folder / download.file
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):  # a concurrent download of the same file waits and then finds it
        if download.unpack and _marker(target).exists():
            return False
        fetched = not target.exists()
        if fetched:
            _fetch(download, target, progress)
        else:
            _check(download, target, target)
        if download.unpack:
            _unpack(target)
    return fetched or download.unpack


def is_there(download: Download, folder: Path) -> bool:
    """Return True if the file, or its unpacked content, exists. The content is not verified."""
    target = folder / download.file
    return target.exists() or (download.unpack and _marker(target).exists())


def _fetch(download: Download, target: Path, progress: Progress | None) -> None:
    if not download.url:
        raise UserError(f"{target} must be placed there by hand: no host serves it.")
    part = target.with_name(target.name + ".part")
    while True:
        # Resume only if there is a checksum: it shows if the file changed between two attempts.
        before = part.stat().st_size if download.checksum and part.exists() else 0
        if _receive(download, part, before, progress):
            break
        after = part.stat().st_size
        if after <= before or not download.checksum:  # otherwise the connection broke: resume
            raise UserError(
                f"{download.url} ended after {after:,} bytes.",
                "Run the same command again to resume.",
            )
    _check(download, part, target)
    part.replace(target)


def _receive(download: Download, part: Path, start: int, progress: Progress | None) -> bool:
    """Append to `part` from byte `start`; return True if it is complete.

    If the host sends the whole file instead, it replaces `part`. `progress` is that of `fetch`.
    """
    request = urllib.request.Request(download.url, headers={"User-Agent": "harness"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with _network_errors(download.url):
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: no bytes after `start`
                raise
            if download.num_bytes not in (None, start):
                part.unlink()
                return _receive(download, part, 0, progress)
            return True
        with response:
            if start and response.status != 206:  # the host ignores the range and sends everything
                start = 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length is not None else download.num_bytes
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                done = _copy(response, file, start, total, progress)
    return total is None or done >= total


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    done: int,
    total: int | None,
    progress: Progress | None,
) -> int:
    """Copy the response to the file and return the file's size.

    A broken connection ends the copy without an error. `done` bytes are in the file already;
    `total` is its final size, None if unknown.
    """
    while True:
        try:
            data = response.read(CHUNK)
        except http.client.IncompleteRead as error:
            data = error.partial
        except (OSError, http.client.HTTPException):
            return done
        if not data:
            return done
        file.write(data)
        done += len(data)
        if progress is not None:
            progress(done, total or done)


def _check(download: Download, file: Path, target: Path) -> None:
    """Raise UserError unless `file` has the published size and checksum.

    A wrong .part is removed; a file under its final name is kept.
    """
    problem, num_bytes = "", file.stat().st_size
    if download.num_bytes not in (None, num_bytes):
        problem = f"it is {num_bytes:,} bytes, and should be {download.num_bytes:,}"
    elif download.checksum:
        kind, _, expected = download.checksum.partition(":")
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, kind).hexdigest()
        problem = "" if digest == expected else f"its {kind} is {digest}, and should be {expected}"
    if problem and file == target:
        raise UserError(
            f"{target} is not the published file: {problem}.", "Remove it and download again."
        )
    if problem:
        file.unlink()
        raise UserError(
            f"{download.url} returned another file than the published one: {problem}.",
            "Run the command again; if it repeats, the host has changed the file.",
        )


def _unpack(archive: Path) -> None:
    """Unpack into the archive's folder. The files appear only after all of them are unpacked.

    Raises UserError if the archive is incomplete.
    """
    scratch = archive.with_name(f".{archive.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        if archive.name.endswith((".tar.gz", ".tgz", ".tar")):
            _unpack_tar(archive, scratch)
        elif archive.suffix == ".zip":
            _unpack_zip(archive, scratch)
        else:
            assert archive.suffix == ".gz", (
                f"{archive} is not an archive format that can be unpacked"
            )
            with gzip.open(archive) as packed_file, (scratch / archive.stem).open("wb") as file:
                shutil.copyfileobj(packed_file, file, CHUNK)
        for path in sorted(scratch.rglob("*")):
            if path.is_symlink() or path.is_file():
                place = archive.parent / path.relative_to(scratch)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
        _marker(archive).touch()
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{archive} is not a complete archive: {error}", "Remove it and download again."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack files and folders. Links and paths outside the archive raise UserError.

    tarfile's filters are not used: they need Python 3.11.4, and Debian 12 has 3.11.2.
    """
    with tarfile.open(archive) as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(
                    f"{archive} names a file outside itself: {member.name}",
                    "Do not trust this archive.",
                )
            if member.issym() or member.islnk():
                raise UserError(
                    f"{archive} has a link, {member.name}, which may lead outside itself.",
                    "Do not trust this archive.",
                )
            target = folder / path
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif (content := packed.extractfile(member)) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(
                    f"{archive} names a file outside itself: {name}", "Do not trust this archive."
                )
        packed.extractall(folder)


def _marker(archive: Path) -> Path:
    return archive.with_name(f".{archive.name}.unpacked")


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turn network errors into UserError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        hint = (
            "The host removed it or needs an account: see `harness download --dry-run`, and place "
            "it by "
            "hand."
            if error.code in GONE
            else "Try again later."
        )
        raise UserError(f"{url}: the host answered {error.code} {error.reason}.", hint) from error
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url} cannot be reached: {reason}.",
            "Is there a network? Run the same command again to resume.",
        ) from error
