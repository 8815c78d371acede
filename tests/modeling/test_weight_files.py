"""Files of weights as other programs write them: wrappers, averages, and files of other kinds."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.modeling import import_notes, state_dicts
from harness.modeling.checkpoint_import import import_checkpoint
from writers.errors import UserError

Write = Callable[[Path], object]


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def tensors(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return Network().state_dict()


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_wrappers_of_inner_modules_are_removed(tmp_path: Path, wrapper: str):
    """FSDP, torch.compile and activation checkpointing may wrap some modules of a network only."""
    wrapped = {f"module.a.{wrapper}.0.weight": torch.ones(1), "module.b.weight": torch.zeros(1)}
    torch.save({"model": wrapped}, tmp_path / "c.pt")
    assert list(state_dicts.read(tmp_path / "c.pt").tensors) == ["a.0.weight", "b.weight"]


def test_names_that_differ_only_in_a_wrapper_are_kept(tmp_path: Path):
    torch.save({"a._orig_mod.x": torch.ones(1), "a.x": torch.zeros(1)}, tmp_path / "c.pt")
    assert list(state_dicts.read(tmp_path / "c.pt").tensors) == ["a._orig_mod.x", "a.x"]


def test_safetensors_are_recognized_by_content(tmp_path: Path):
    save_file(tensors(), tmp_path / "c.bin")
    found = state_dicts.read(tmp_path / "c.bin").tensors
    assert all(torch.equal(value, found[name]) for name, value in tensors().items())


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_an_average_that_is_not_read_is_reported(tmp_path: Path, key: str):
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnet18().state_dict()
    torch.save({"state_dict": state, key: state}, tmp_path / "c.pt")
    for average in (False, True):
        _, about = import_checkpoint(
            tmp_path / "c.pt", "torchvision/resnet18", None, average=average
        )
        note = import_notes.choice_of(about)
        assert note == "" if average else f"({key}), which was not read" in note
    torch.save({"state_dict": state}, tmp_path / "c.pt")
    _, about = import_checkpoint(tmp_path / "c.pt", "torchvision/resnet18", None)
    assert import_notes.choice_of(about) == ""


KINDS: dict[str, tuple[str, Write, str, str]] = {
    "TorchScript": (
        "c.pt",
        lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path),
        "is a TorchScript program",
        "torch.jit.load",
    ),
    "whole model": (
        "c.pt",
        lambda path: torch.save(Network(), path),
        "objects of classes that are not loaded",
        r"torch\.save\(model\.state_dict\(\)",
    ),
    "whole model in a mapping": (
        "c.pt",
        lambda path: torch.save({"epoch": 1, "model": Network()}, path),
        "objects of classes that are not loaded",
        r"torch\.save\(model\.state_dict\(\)",
    ),
    "NumPy": (
        "c.npz",
        lambda path: np.savez(path, weight=np.zeros(3)),
        "is a file of NumPy arrays",
        "from_numpy",
    ),
    "gzip": (
        "c.pt.gz",
        lambda path: path.write_bytes(gzip.compress(b"x")),
        "is compressed by gzip",
        "unpacked",
    ),
    "Git LFS": (
        "c.pt",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a pointer of Git LFS",
        "torch.save",
    ),
    "web page": (
        "c.safetensors",
        lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
        "is an HTML page",
        "safetensors",
    ),
    "shard": (
        "model-00001-of-00002.safetensors",
        lambda path: save_file(tensors(), path),
        "stored in several files",
        "in one file",
    ),
    "index of shards": (
        "model.safetensors.index.json",
        lambda path: path.write_text(json.dumps({"weight_map": {}})),
        "stored in several files",
        "in one file",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_files_of_other_kinds_are_called_what_they_are(tmp_path: Path, kind: str, recwarn):
    name, write, message, hint = KINDS[kind]
    write(tmp_path / name)
    recwarn.clear()
    with pytest.raises(UserError, match=message) as caught:
        state_dicts.read(tmp_path / name)
    caught.match(hint)
    assert not recwarn.list
