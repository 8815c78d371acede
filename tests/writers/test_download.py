"""Downloads from a local server: dropped, resumed, redirected, refused; unsafe archives."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from writers.dataset import Download
from writers.download import fetch, is_there
from writers.errors import UserError

DATA = np.random.default_rng(0).bytes(3_000_000)
MD5 = "md5:" + hashlib.md5(DATA).hexdigest()


@dataclass
class Host:
    """Behavior of the server, and the requests it received."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    # Number of bytes of each response after which the connection closes.
    cut_after: list[int] = field(default_factory=list)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


@pytest.fixture
def host() -> Iterator[Host]:
    state = Host(files={"/data.bin": DATA})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/data.bin")
                self.end_headers()
                return
            if self.path not in state.files:
                self.send_error(404)
                return
            data, start = state.files[self.path], 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:][: state.cut_after.pop(0) if state.cut_after else None])

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def the(host: Host, **more: object) -> Download:
    return replace(Download("data.bin", f"{host.url}/data.bin", MD5, len(DATA)), **more)


def test_a_file_is_fetched_once_and_reported(host: Host, tmp_path: Path):
    progress: list[tuple[int, int]] = []
    assert not is_there(the(host), tmp_path)
    assert fetch(the(host), tmp_path, lambda done, total: progress.append((done, total)))
    assert (tmp_path / "data.bin").read_bytes() == DATA and progress[-1] == (len(DATA), len(DATA))
    assert is_there(the(host), tmp_path)
    assert not fetch(the(host), tmp_path)
    assert len(host.requests) == 1 and [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_a_dropped_connection_is_resumed(host: Host, tmp_path: Path):
    host.cut_after = [1_000_000, 500_000]
    assert fetch(the(host), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert [wanted for _, wanted in host.requests] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_run_resumes_and_a_silent_host_is_an_error(host: Host, tmp_path: Path):
    host.cut_after = [1_000_000, 0]
    with pytest.raises(UserError, match=r"ended after 1,000,000 bytes.*\n.*again to resume"):
        fetch(the(host), tmp_path)
    assert not (tmp_path / "data.bin").exists()
    assert (tmp_path / "data.bin.part").stat().st_size == 1_000_000
    assert fetch(the(host), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA and host.requests[-1][1] == "bytes=1000000-"
    assert not (tmp_path / "data.bin.part").exists()


def test_a_host_without_ranges_restarts_the_download(host: Host, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(DATA[:700])
    host.ranges = False
    assert fetch(the(host), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_partial_file_that_is_complete_or_too_long(host: Host, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(DATA)
    assert fetch(the(host), tmp_path)
    (tmp_path / "data.bin").unlink()
    (tmp_path / "data.bin.part").write_bytes(DATA + b"more")
    assert fetch(the(host), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_without_a_checksum_downloads_are_not_resumed(host: Host, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(b"of another version")
    assert fetch(the(host, checksum="", num_bytes=None), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA and host.requests == [("/data.bin", None)]
    (tmp_path / "data.bin").unlink()
    host.cut_after = [1000]
    with pytest.raises(UserError, match="ended after 1,000 bytes"):
        fetch(the(host, checksum="", num_bytes=None), tmp_path)


def test_concurrent_fetches_download_once(host: Host, tmp_path: Path):
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda _: fetch(the(host), tmp_path), range(2))) == [False, True]
    assert len(host.requests) == 1 and (tmp_path / "data.bin").read_bytes() == DATA


def test_a_redirect_is_followed_with_its_range(host: Host, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(DATA[:10])
    assert fetch(the(host, url=f"{host.url}/moved"), tmp_path)
    assert host.requests == [("/moved", "bytes=10-"), ("/data.bin", "bytes=10-")]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_file_with_a_wrong_checksum_is_not_kept(host: Host, tmp_path: Path):
    host.files["/data.bin"] = DATA[:-1] + b"?"
    with pytest.raises(UserError, match="its md5 is"):
        fetch(the(host), tmp_path)
    host.files["/data.bin"] = DATA[:-5]
    with pytest.raises(UserError, match="it is 2,999,995 bytes"):
        fetch(the(host), tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.bin").write_bytes(b"placed by hand")
    with pytest.raises(UserError, match=r"data\.bin is not the published file"):
        fetch(the(host), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"placed by hand"


def test_missing_files_and_unreachable_hosts_are_reported(host: Host, tmp_path: Path):
    with pytest.raises(UserError, match=r"answered 404.*\n.*by hand"):
        fetch(the(host, url=f"{host.url}/gone"), tmp_path)
    with pytest.raises(UserError, match="cannot be reached"):
        fetch(the(host, url="http://127.0.0.1:1/data.bin"), tmp_path)
    with pytest.raises(UserError, match="by hand"):
        fetch(the(host, url=""), tmp_path)


def packed(kind: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    elif kind == "tar.gz":
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        buffer.write(gzip.compress(next(iter(members.values()))))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "h5.gz"])
def test_archives_are_unpacked_next_to_themselves(host: Host, tmp_path: Path, kind: str):
    members = (
        {"set/a.txt": b"A" * 1000, "set/deep/b.txt": b"B"}
        if kind != "h5.gz"
        else {"data.h5": b"H" * 1000}
    )
    data = host.files[f"/data.{kind}"] = packed(kind, members)
    download = Download(
        f"data.{kind}",
        f"{host.url}/data.{kind}",
        "sha256:" + hashlib.sha256(data).hexdigest(),
        unpack=True,
    )
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "deep" / "own.txt").write_text("stays")
    assert fetch(download, tmp_path)
    assert all((tmp_path / name).read_bytes() == content for name, content in members.items())
    assert (tmp_path / "set" / "deep" / "own.txt").exists()
    (tmp_path / f"data.{kind}").unlink()
    assert is_there(download, tmp_path)
    assert not fetch(download, tmp_path)
    assert len(host.requests) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("zip", "../evil.txt"),
        ("zip", "a/../../evil.txt"),
        ("zip", "/evil.txt"),
        ("tar.gz", "../evil.txt"),
        ("tar.gz", "a/../../evil.txt"),
    ],
)
def test_a_hostile_archive_leaves_nothing(host: Host, tmp_path: Path, kind: str, name: str):
    host.files[f"/data.{kind}"] = packed(kind, {"good.txt": b"g", name: b"evil"})
    folder = tmp_path / "raw"
    with pytest.raises(UserError, match="outside itself"):
        fetch(Download(f"data.{kind}", f"{host.url}/data.{kind}", unpack=True), folder)
    assert [path.name for path in folder.iterdir()] == [f"data.{kind}"]
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "h5.gz"])
def test_a_truncated_archive_leaves_nothing(host: Host, tmp_path: Path, kind: str):
    members = {f"{index}.txt": np.random.default_rng(index).bytes(20_000) for index in range(5)}
    host.files[f"/data.{kind}"] = packed(kind, members)[:15_000]
    with pytest.raises(UserError, match="not a complete archive"):
        fetch(Download(f"data.{kind}", f"{host.url}/data.{kind}", unpack=True), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"data.{kind}"]


def test_a_link_out_of_the_folder_is_refused(host: Host, tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "../../outside"
        archive.addfile(member)
    host.files["/data.tar.gz"] = buffer.getvalue()
    with pytest.raises(UserError, match="outside itself"):
        fetch(Download("data.tar.gz", f"{host.url}/data.tar.gz", unpack=True), tmp_path)
