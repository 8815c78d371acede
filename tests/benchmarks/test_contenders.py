"""Contenders (the loaders that `harness bench load` compares) deliver to the requested device.

If one cannot, it raises AbsentError.
"""

import importlib
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from benchmarks.contender import AbsentError, Work
from benchmarks.contenders import ffcv
from tests.helpers.tiny_betons import jpeg, photo

ON_GPU = {"device": "cuda:0", "num_threads": 1, "batch_size": 2, "resolution": 32}
LIBRARIES = {
    "webdataset": ["webdataset"],
    "streaming": ["streaming", "streaming.base", "streaming.base.util"],
    "litdata": ["litdata"],
    "spdl": ["spdl", "spdl.io", "spdl.pipeline"],
    "dali": ["nvidia", "nvidia.dali"],
}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("webdataset", "pil"),
        ("streaming", "pil"),
        ("litdata", "pil"),
        ("spdl", "ffmpeg"),
        ("dali", "cpu"),
        ("dali", "cpu_careful"),
    ],
)
def test_cpu_only_contenders_are_absent_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variant: str
):
    """They raise before they use their libraries, which are mocks here."""
    for library in LIBRARIES[name]:
        monkeypatch.setitem(sys.modules, library, MagicMock(StreamingDataset=object))
    module = f"benchmarks.contenders.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    contender = importlib.import_module(module)
    del sys.modules[module]
    with pytest.raises(AbsentError, match="CPU only"):
        contender.open_pipeline(variant, Work(str(tmp_path), str(tmp_path), **ON_GPU))


@pytest.mark.parametrize("augment", ["random_resized_crop", "center_crop"])
def test_stock_ffcv_copies_images_and_labels_to_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: str
):
    (tmp_path / "corpus" / "photos").mkdir(parents=True)
    (tmp_path / "corpus" / "photos" / "0.jpg").write_bytes(jpeg(photo(120, 110, seed=0)))
    loader_options = {}
    monkeypatch.setattr(ffcv, "Loader", lambda beton, **options: loader_options.update(options))
    for device in ("cpu", "cuda:0"):
        work = Work(
            str(tmp_path / "corpus"),
            str(tmp_path / "converted"),
            augment=augment,
            **ON_GPU | {"device": device},
        )
        ffcv.open_pipeline("jpeg", work)
        for operations in loader_options["pipelines"].values():
            names = [type(operation).__name__ for operation in operations]
            assert ("ToDevice" in names) == (device != "cpu")
            if device != "cpu":
                place = names.index("ToDevice")
                assert names[place - 1] == "ToTensor"
                assert operations[place].device == torch.device("cuda:0")
