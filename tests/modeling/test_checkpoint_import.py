"""Checkpoints of other programs: prefixes, other tensors and heads, hints, damaged files."""

import json
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import CliRunner

from harness.cli.main import cli
from harness.modeling import classifier, state_dicts
from harness.modeling.checkpoint_import import import_checkpoint
from harness.modeling.weight_matching import largest_match
from writers.errors import UserError

ARCH = "torchvision/shufflenet_v2_x0_5"
CLASSES = [f"c{number}" for number in range(1000)]


def network(num_classes: int = 1000) -> torch.nn.Module:
    torch.manual_seed(num_classes)
    return torchvision.models.shufflenet_v2_x0_5(num_classes=num_classes)


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


LAYOUTS = {
    "stray key": lambda s: {"state_dict": prefixed("model.", s) | {"criterion.w": torch.ones(9)}},
    "unknown prefix": lambda s: {"state_dict": prefixed("net.", s)},
    "long prefix": lambda s: prefixed("module.student.encoder.", s),
    "two networks": lambda s: {
        "model": prefixed("backbone.", s) | {f"ema.{n}": t + 1 for n, t in list(s.items())[:40]}
    },
    "queue": lambda s: prefixed("network_q.", s) | {"queue": torch.rand(8, 8)},
    "unusual wrapper": lambda s: {"teacher": s, "epoch": 3, "lr": torch.tensor(0.1)},
    "nested wrappers": lambda s: {"model": {"state_dict": {"weights": s}}},
    "without counters": lambda s: {
        name: value for name, value in s.items() if not name.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_largest_match_is_imported(layout: str, tmp_path: Path):
    state = network().state_dict()
    torch.save(LAYOUTS[layout](state), tmp_path / "c.pt")
    model, about = import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES)
    assert torch.equal(model.head.weight, state["fc.weight"]) and about["has_head"]
    weights = dict(model.backbone.named_parameters())
    assert weights and all(torch.equal(weights[name], state[name]) for name in weights)
    averaged = [f"ema.{name}" for name in list(state)[:40]]
    left_out = {"stray key": ["criterion.w"], "queue": ["queue"], "two networks": averaged}
    assert about["left_out"] == sorted(left_out.get(layout, []))


def test_averaged_weights_are_read_without_their_counter(tmp_path: Path):
    theirs = network()
    average = torch.optim.swa_utils.AveragedModel(theirs).state_dict()
    torch.save({"model": network(10).state_dict(), "model_ema": average}, tmp_path / "c.pt")
    model, about = import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES, average=True)
    assert torch.equal(model.head.bias, theirs.state_dict()["fc.bias"])
    assert about["left_out"] == ["n_averaged"]


def test_a_prefix_is_chosen_by_shape_first_and_then_by_length():
    shapes = {"a": torch.Size([2]), "b": torch.Size([3])}
    right, wrong = torch.ones(2), torch.zeros(5)
    weights = {"x.a": wrong, "x.b": wrong, "y.a": right, "y.y.a": right + 1}
    match = largest_match(weights, shapes)
    assert match.tensors["a"] is right and match.missing == ("b",)
    assert match.left_out == ("x.a", "x.b", "y.y.a")


def test_a_foreign_head_is_refused_or_dropped(tmp_path: Path):
    torch.save(network(10).state_dict(), tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"fc\.weight has 10 classes") as caught:
        import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES)
    assert "--classes" in caught.value.hint
    model, about = import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES, drop_foreign_head=True)
    assert not about["has_head"] and about["classes"] == []
    assert about["left_out"] == ["fc.bias", "fc.weight"]
    classifier.save(tmp_path / "m.pt", model, about)
    again, _ = classifier.load(tmp_path / "m.pt")
    assert torch.equal(again.backbone.conv1[0].weight, network(10).conv1[0].weight)


def test_a_network_without_a_separate_head_needs_all_its_classes(tmp_path: Path):
    """SqueezeNet's features are the scores of ImageNet's 1,000 classes; they cannot become 900."""
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "c.pt")
    with pytest.raises(UserError, match="scores of 1,000 classes and has no head that could"):
        import_checkpoint(tmp_path / "c.pt", "torchvision/squeezenet1_1", "in900")


def test_a_mean_of_pixels_up_to_255_is_refused(tmp_path: Path):
    torch.save(network().state_dict(), tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"123 117 104 is not in \[0, 1\]"):
        import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES, mean=(123, 117, 104), std=(58, 57, 57))


def test_the_command_lists_what_it_left_out(tmp_path: Path):
    torch.save(network(10).state_dict() | {"extra\x1b[0m": torch.ones(1)}, tmp_path / "c.pt")
    out = str(tmp_path / "m.pt")
    arguments = ["import-checkpoint", str(tmp_path / "c.pt"), "--arch", ARCH, "--out", out]
    ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0 and "no head for in1000" in ended.output
    assert "left out: extra\\x1b[0m, fc.bias, fc.weight" in ended.output
    ended = CliRunner().invoke(cli, [*arguments, "--classes", "none"], catch_exceptions=False)
    assert ended.exit_code == 0 and "no head for" not in ended.output
    with pytest.raises(UserError, match="for these classes"):
        CliRunner().invoke(cli, [*arguments, "--classes", "in1000"], catch_exceptions=False)


def test_the_command_states_which_of_several_copies_it_read(tmp_path: Path):
    state = network().state_dict()
    other = {name: value * 2 for name, value in state.items()}
    file, out = tmp_path / "c.pt", tmp_path / "m.pt"
    torch.save(prefixed("left.", state) | prefixed("right.net.", other), file)

    def run(*arguments: str) -> str:
        ended = CliRunner().invoke(
            cli, ["import-checkpoint", str(file), "--arch", ARCH, "--out", str(out), *arguments]
        )
        assert ended.exit_code == 0, ended.output
        return ended.output

    assert (
        "has 2 copies of the network. The one under left was read, not right.net. To read another: "
        "--part right.net" in run()
    )
    assert torch.equal(classifier.load(out)[0].head.bias, state["fc.bias"])
    assert "copies" not in run("--part", "right.net")
    assert torch.equal(classifier.load(out)[0].head.bias, other["fc.bias"])


def test_hints_name_the_option_that_helps(tmp_path: Path):
    state = network().state_dict()
    torch.save({f"t{number}": value for number, value in enumerate(state.values())}, tmp_path / "c")
    with pytest.raises(UserError, match="are missing") as caught:
        import_checkpoint(tmp_path / "c", ARCH, CLASSES)
    assert "--by-order" in caught.value.hint
    model, _ = import_checkpoint(tmp_path / "c", ARCH, CLASSES, by_order=True)
    assert torch.equal(model.head.weight, state["fc.weight"])
    with pytest.raises(UserError, match="are missing") as caught:
        import_checkpoint(tmp_path / "c", "torchvision/resnet18", CLASSES)
    assert "--arch" in caught.value.hint


def test_files_that_contain_themselves_or_nest_deeply_are_refused(tmp_path: Path):
    itself: dict = {}
    itself["model"] = itself
    nested: dict = {"a": torch.ones(1)}
    for _ in range(400):
        nested = {"model": nested}
    for content in (itself, nested):
        torch.save(content, tmp_path / "c.pt")
        with pytest.raises(UserError, match="has no weights in it"):
            state_dicts.read(tmp_path / "c.pt")
    lists = pickle.EMPTY_LIST * 100_000 + pickle.APPEND * 99_999  # each list in the one before
    (tmp_path / "d.pt").write_bytes(pickle.PROTO + b"\x02" + lists + pickle.STOP)
    with pytest.raises(UserError, match="not a complete file"):
        state_dicts.read(tmp_path / "d.pt")


def test_a_huge_memo_index_allocates_no_memory(tmp_path: Path):
    """Python's pickle module, in C, would allocate 16 GiB for a memo of this size."""
    put = b"K\x01" + pickle.LONG_BINPUT + struct.pack("<I", 2**30)
    (tmp_path / "c.pt").write_bytes(pickle.PROTO + b"\x02" + put + pickle.STOP)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="not a complete file"):
        state_dicts.read(tmp_path / "c.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
def test_a_large_file_of_another_kind_is_not_read(tmp_path: Path, name: str, monkeypatch):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**35)
    monkeypatch.setattr(
        state_dicts, "content_digest", lambda path: pytest.fail("the file must not be read")
    )
    with pytest.raises(UserError, match="is not a complete"):
        state_dicts.read(tmp_path / name)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "X", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**62]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    ],
)
def test_invalid_headers_of_safetensors_are_refused(tmp_path: Path, entry: dict):
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(entry["data_offsets"][1] & 15))
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        state_dicts.read(path)


def test_a_normalization_of_millions_of_channels_is_refused(tmp_path: Path):
    mean = torch.zeros(1).expand(2**40)
    torch.save({"a": torch.ones(1), "normalizer.new_mean": mean}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="is not a normalization: it has 1,099,511,627,776 values"):
        state_dicts.read(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.5, 0.5, 0.5], [0.5, 0.0, 0.5]),
        ([0.5, float("nan"), 0.5], [0.5, 0.5, 0.5]),
        ([0.5, 0.5, 0.5], [0.5, float("inf"), 0.5]),
    ],
)
def test_a_normalization_that_cannot_be_applied_is_refused(
    mean: list[float], std: list[float], tmp_path: Path
):
    state = {"normalizer.new_mean": torch.tensor(mean), "normalizer.new_std": torch.tensor(std)}
    torch.save({"a": torch.ones(1), **state}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"normalizer\.new_(mean|std) is not a normalization"):
        state_dicts.read(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("conv1.0.weight", lambda t: t * float("nan"), "not finite"),
        ("fc.bias", lambda t: t + float("inf"), "not finite"),
        ("conv1.1.running_var", lambda t: t + float("inf"), "not finite"),
        ("conv1.0.weight", lambda t: t.to(torch.int8), "type int8"),
        ("fc.bias", lambda t: t.bool(), "type bool"),
    ],
)
def test_weights_that_are_not_finite_floats_are_refused(
    name: str, change, words: str, tmp_path: Path
):
    state = network().state_dict()
    torch.save({**state, name: change(state[name])}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=words):
        import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES)


def test_normalizations_beyond_float32_are_refused(tmp_path: Path):
    torch.save(network().state_dict(), tmp_path / "c.pt")
    for mean, std in (((1e308,) * 3, None), (None, (1e-308,) * 3)):
        with pytest.raises(UserError, match="finite"):
            import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES, mean=mean, std=std)


def test_very_long_names_are_refused(tmp_path: Path):
    long = prefixed("m." * 50_000, {"a.weight": torch.ones(1), "b.weight": torch.ones(1)})
    torch.save(long, tmp_path / "c.pt")
    with pytest.raises(UserError, match="name has 100,008 characters"):
        state_dicts.read(tmp_path / "c.pt")


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path: Path):
    torch.save({"a": torch.ones(4)}, tmp_path / "c.pt")
    with (
        zipfile.ZipFile(tmp_path / "c.pt") as plain,
        zipfile.ZipFile(tmp_path / "large.pt", "w", zipfile.ZIP_DEFLATED) as large,
    ):
        for name in plain.namelist():
            large.writestr(name, bytes(2**24) if name.endswith("data/0") else plain.read(name))
    for read in (state_dicts.read, classifier.load):
        with pytest.raises(UserError, match="bytes of it unpack to 16,"):
            read(tmp_path / "large.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
        lambda weight: weight.to(torch.complex64),
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "complex", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, change):
    state = {name: change(value.float()) for name, value in network().state_dict().items()}
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(UserError, match="has no weights in it"):
        import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES)


@pytest.mark.parametrize(
    "given", [{"eps": float("nan")}, {"mean": [float("inf")] * 3}, {"std": [0.0, 1.0, 1.0]}]
)
def test_settings_that_are_not_finite_or_not_positive_are_refused(tmp_path: Path, given: dict):
    with pytest.raises(UserError, match="finite numbers"):
        import_checkpoint(tmp_path / "c.pt", ARCH, CLASSES, **given)


def test_a_fifo_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "c.pt")
    with pytest.raises(UserError, match="not a regular file"):
        state_dicts.read(tmp_path / "c.pt")
