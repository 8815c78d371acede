"""The commands `harness download`, `harness verify-raw` and `harness ls datasets`."""

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cli.main import main
from tests.helpers import ROOT
from writers import check
from writers.dataset import Download, SplitSettings, open_dataset
from writers.datasets import eurosat, resisc45, svhn


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("HARNESS_DATA", "HARNESS_RAW", "HARNESS_RUNS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def harness(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run `harness ARGUMENTS`; returns (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capfd.readouterr()
        return end.value.code, out, err  # type: ignore[return-value]

    return run


@pytest.fixture
def eurosat_tree(tmp_path: Path) -> Path:
    """Ten images of each EuroSAT class, in the raw folder."""
    random = np.random.default_rng(0)
    for kind in eurosat.CLASSES:
        folder = tmp_path / "raw" / "eurosat" / "2750" / kind
        folder.mkdir(parents=True)
        for number in range(10):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                folder / f"{kind}_{number}.jpg"
            )
    return tmp_path / "raw" / "eurosat"


@pytest.fixture
def host(tmp_path: Path) -> Any:
    """Serve the folder served/ over HTTP on this machine; yields the URL."""
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_fetches_and_verifies(
    harness: Any, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = {}
    for split in ("train", "test"):
        data = split.encode() * 1000
        (tmp_path / "served" / f"{split}.mat").write_bytes(data)
        files[split] = Download(
            f"{split}_32x32.mat",
            f"{host}{split}.mat",
            "md5:" + hashlib.md5(data).hexdigest(),
            len(data),
        )
    monkeypatch.setattr(svhn, "SPEC", replace(svhn.SPEC, downloads=tuple(files.values())))
    code, out, _ = harness("download", "svhn", "--dry-run")
    assert code == 0
    assert f"{host}train.mat" in out
    assert "5,000 bytes" in out
    assert files["train"].checksum in out
    assert not (tmp_path / "raw").exists()
    code, out, _ = harness("download", "SVHN", "--root", "there")
    assert code == 0 and out.count("fetched, checksum verified") == 2
    assert (tmp_path / "there" / "svhn" / "test_32x32.mat").read_bytes() == b"test" * 1000
    code, out, _ = harness("download", "svhn", "--root", "there")
    assert code == 0 and out.count("already exists") == 2
    content = json.loads(harness("download", "svhn", "--root", "there", "--json")[1])
    assert [entry["present"] for entry in content["svhn"]] == [True, True]
    assert content["svhn"][0]["num_bytes"] == 5000

    wrong = replace(files["test"], file="other.mat", checksum="md5:" + "0" * 32)
    monkeypatch.setattr(svhn, "SPEC", replace(svhn.SPEC, downloads=(wrong,)))
    code, out, err = harness("download", "svhn")
    assert code == 2 and "its md5 is" in err and not list((tmp_path / "raw").rglob("other*"))
    gone = replace(files["test"], url=f"{host}gone.mat", file="gone.mat")
    monkeypatch.setattr(
        svhn, "SPEC", replace(svhn.SPEC, downloads=(gone, replace(gone, file="more.mat")))
    )
    monkeypatch.setattr(eurosat, "SPEC", replace(eurosat.SPEC, downloads=(files["train"],)))
    code, out, err = harness("download", "svhn", "eurosat")
    assert code == 1
    assert "svhn: " in err
    assert "404" in err
    assert "eurosat/train_32x32.mat: fetched" in out


def test_files_that_cannot_be_fetched_are_listed_with_their_folder(harness: Any, tmp_path: Path):
    code, out, _ = harness("download", "resisc45")
    assert code == 1
    assert "raw/resisc45/NWPU-RESISC45" in out
    assert resisc45.SPEC.where in out
    assert "train/<class>/*.jpg" in out
    (tmp_path / "raw" / "resisc45" / "NWPU-RESISC45").mkdir(parents=True)
    assert harness("download", "resisc45")[0] == 0
    for option in ((), ("--dry-run",)):
        assert harness("download", "synthetic_things", *option)[:2] == (
            0,
            "synthetic_things is generated on first use; there is nothing to fetch.\n",
        )
    assert harness("download", "svnh")[0] == 2
    assert "other/resisc45" in harness("download", "resisc45", "--raw-dir", "other", "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("verify-raw", "eurosat"), "--source"),
        (("write-beton", "--dataset", "eurosat"), "--source"),
        (("which-classes", "--target", "eurosat", "--surrogate", "efficientnet_lite0"), "--target"),
    ],
)
def test_missing_images_are_answered_with_where_to_get_them(
    arguments: tuple[str, ...], option: str, harness: Any, tmp_path: Path
):
    code, _, error = harness(*arguments)
    assert code == 2 and f"The images of eurosat are not at {tmp_path / 'raw/eurosat'}." in error
    assert eurosat.SPEC.where in error and "harness download eurosat" in error
    assert f"pass {option} PATH or --raw-dir DIR" in error


def test_all_lists_each_dataset_once_and_checks_the_disk_first(
    harness: Any, monkeypatch: pytest.MonkeyPatch
):
    code, out, _ = harness("download", "all", "--dry-run")
    assert code == 0 and out.count("CLEVR_v1.0.zip  19") == 1 and "VOCtest_06-Nov-2007.tar" in out
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9)
    )
    code, _, err = harness("download", "all")
    assert code == 2 and "has 1.0 GB left, and the files have" in err


def test_verify_raw_lists_problems(
    harness: Any, eurosat_tree: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        eurosat, "SPEC", replace(eurosat.SPEC, split_sizes={"train": 60, "val": 20, "test": 20})
    )
    code, out, _ = harness("verify-raw", "eurosat")
    assert code == 0
    assert "train: 60 images of 10 classes, 6 of each" in out
    assert "eurosat: good" in out
    assert harness("verify-raw", "EuroSAT", "--source", str(eurosat_tree / "2750"))[0] == 0

    (eurosat_tree / "2750" / "River" / "River_3.jpg").write_bytes(b"not an image")
    cut = eurosat_tree / "2750" / "Forest" / "Forest_4.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (eurosat_tree / "2750" / "Highway" / "Highway_5.jpg").unlink()
    code, out, _ = harness("verify-raw", "eurosat", "--threads", "2")
    assert code == 1 and "3 problems" in out
    assert "River_3.jpg: it is not an image" in out and "Forest_4.jpg: " in out
    assert "train has 59 images; 60 were published" in out
    content = json.loads(harness("verify-raw", "eurosat", "--json")[1])
    assert content["num_images"] == {"train": 59, "val": 20, "test": 20}
    assert len(content["problems"]) == 3
    assert content["class_counts"]["train"]["Highway"] == 5

    for number in range(10):
        (eurosat_tree / "2750" / "River" / f"River_{number}.jpg").unlink()
    (eurosat_tree / "2750" / "River").rmdir()
    code, out, _ = harness("verify-raw", "eurosat")
    assert code == 1 and "no image at all of River" in out
    assert harness("verify-raw", "eurosat", "--source", "nowhere")[0] == 2


def test_images_split_off_as_val_count_as_train_and_an_empty_class_is_named(eurosat_tree: Path):
    source = open_dataset("eurosat", eurosat_tree, SplitSettings())
    spec = replace(eurosat.SPEC, split_sizes={"train": 80, "test": 20})
    # The published data has no val, so val is split off from the published train.
    assert check.check_raw(source, spec).problems == []
    source.splits["train"] = [example for example in source.splits["train"] if example.label != 3]
    problems = check.check_raw(source, spec).problems
    assert problems == ["train has 74 images; 80 were published", "train has no image of Highway"]


def test_ls_datasets_shows_local_files(harness: Any, eurosat_tree: Path, tmp_path: Path):
    (tmp_path / "data" / "eurosat-all-1234").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "data" / "eurosat-all-1234" / f"{split}.beton").touch()
    code, out, _ = harness("ls", "datasets")
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert code == 0
    assert lines["eurosat"][:9] == [
        "eurosat",
        "16,200",
        "5,400",
        "5,400",
        "10",
        "yes",
        "2",
        "top1",
        "MIT",
    ]
    assert "27,000 satellite images" in " ".join(lines["eurosat"])
    assert lines["svhn"][1:6] == ["73,257", "26,032", "10", "top1", "non-commercial"]
    assert "map11" in lines["voc2007"] and "generated" in lines["synthetic_things"]


def test_the_commands_import_no_torch():
    calls = [
        ["ls", "datasets"],
        ["download", "all", "--dry-run"],
        ["verify-raw", "eurosat", "--source", "/no"],
    ]
    lines = [
        "import sys",
        "from harness.cli.main import main",
        f"for words in {calls}:",
        "    try: main(words)",
        "    except SystemExit: pass",
        "assert 'torch' not in sys.modules",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
