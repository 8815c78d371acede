"""The stages features and score: equal to a loop over images, and repeatable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.matrix import stage_kind
from harness.modeling import classifier as model
from harness.runner import result, stage_state
from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.features import run as features
from harness.stages.pretrain.spec import MODEL_FILE
from harness.stages.score import run as score
from harness.transfer.features import Features, file_of
from harness.transfer.scores import knn, leep
from tests.helpers.tiny_stages import as_result, context_of, write_colors
from writers.errors import UserError
from writers.names import names

VIEW = {
    "resolution": 28,
    "eval_crop": 1.0,
    "batch_size": 16,
    "precision": "float32",
    "splits": ["train", "val", "test"],
}


@pytest.fixture(scope="module")
def data(root: Path) -> Result:
    return write_colors(root / "data")


@pytest.fixture(scope="module")
def source(root: Path) -> Result:
    return save_model(root / "model")


def save_model(folder: Path, **about) -> Result:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model.save(
        folder / MODEL_FILE,
        model.build("resnet10", 5, channels=(16, 16, 16, 16)),
        {"arch": "resnet10", "channels": [16, 16, 16, 16], "resolution": 32, **about},
    )
    return as_result("pretrain", {})


@pytest.fixture(scope="module")
def seen(root: Path, data: Result, source: Result) -> Result:
    outcome = features.run(context_of(root, "features", VIEW, {"model": source, "data": data}))
    return as_result("features", outcome.metrics)


def test_features_and_probabilities_equal_a_loop_over_images(
    root: Path, data: Result, seen: Result
):
    """The loop reads the image files, 28 x 32 pixels, and crops the central 28 x 28."""
    loaded, _ = model.load(root / "model" / MODEL_FILE)
    loaded.eval()
    assert seen.metrics["splits"].keys() == {"train", "val", "test"}
    assert seen.metrics["num_features"] == 16
    for split in ("train", "val", "test"):
        found = Features.load(file_of(root / "features", split))
        files = sorted((root / "data" / "colors-images" / split).rglob("*.png"))
        assert len(found.labels) == len(files) == seen.metrics["splits"][split]["num_images"]
        assert sorted(found.labels.tolist()) == sorted(int(file.parent.name[-1]) for file in files)
        assert len(set(found.ids.tolist())) == len(files)
        by_hand = []
        for file in files:
            pixels = torch.from_numpy(np.array(Image.open(file).crop((0, 2, 28, 30)))).permute(
                2, 0, 1
            )[None]
            with torch.no_grad():
                by_hand.append((loaded.features(pixels)[0].numpy(), int(file.parent.name[-1])))
        for row in range(len(files)):
            distances = [
                np.linalg.norm(found.features[row] - theirs)
                for theirs, label in by_hand
                if label == found.labels[row]
            ]
            # Another batch size changes the order of float32 sums.
            assert min(distances) < 1e-5
        assert found.probs is not None and found.probs.sum(axis=1) == pytest.approx(1)
        head = loaded.head(torch.from_numpy(found.features)).softmax(1).detach().numpy()
        assert found.probs == pytest.approx(head, abs=1e-6)  # softmax in float32


def test_a_repeated_stage_writes_equal_bytes_and_is_done_only_with_all_files(
    root: Path, data: Result, source: Result
):
    outcomes = [
        features.run(context_of(root, f"again{number}", VIEW, {"model": source, "data": data}))
        for number in (0, 1)
    ]
    assert outcomes[0].metrics == outcomes[1].metrics
    for split in VIEW["splits"]:
        assert (
            file_of(root / "again0", split).read_bytes()
            == file_of(root / "again1", split).read_bytes()
        )
    folder = root / "again0"
    result.save(
        as_result("features", outcomes[0].metrics).model_copy(update={"key": folder.name}), folder
    )
    assert stage_state.is_done(stage_kind.find("features"), folder, root / "data")
    file_of(folder, "val").unlink()
    assert not stage_state.is_done(stage_kind.find("features"), folder, root / "data")
    assert not list(folder.glob(".*npz*"))


def test_resolution_defaults_to_that_of_the_model_and_missing_splits_are_skipped(
    root: Path, source: Result
):
    few = write_colors(root / "data", "two splits", splits={"train": 4, "val": 2})
    outcome = features.run(
        context_of(root, "own", {**VIEW, "resolution": None}, {"model": source, "data": few})
    )
    assert outcome.metrics["resolution"] == 32
    assert outcome.metrics["splits"].keys() == {
        "train",
        "val",
    }


def test_a_network_of_one_input_size_gets_images_of_that_size(
    root: Path, tmp_path: Path, data: Result
):
    model.save(
        tmp_path / MODEL_FILE,
        model.build("timm/test_vit", 5),
        {"arch": "timm/test_vit", "resolution": 160},
    )
    context = context_of(
        root,
        "one size",
        {**VIEW, "splits": ["val"]},
        {"model": as_result("adopt", {}), "data": data},
    )
    outcome = features.run(
        replace(context, need_folders={**context.need_folders, "model": tmp_path})
    )
    assert outcome.metrics["resolution"] == 160 and outcome.metrics["splits"].keys() == {"val"}


def test_a_stage_stops_on_request(root: Path, data: Result, source: Result, seen: Result):
    for run, config, needs in (
        (features.run, VIEW, {"model": source, "data": data}),
        (score.run, {"scores": ["knn"]}, {"features": seen}),
    ):
        with pytest.raises(Stopped):
            run(
                context_of(
                    root, f"stopped-{len(needs)}", config, needs, stop_requested=lambda: True
                )
            )


def test_all_scores_by_name_with_their_variants_and_seconds(root: Path, seen: Result):
    outcome = score.run(
        context_of(root, "score", {"scores": names("harness.transfer.scores")}, {"features": seen})
    )
    train = Features.load(file_of(root / "features", "train"))
    metrics = outcome.metrics
    assert metrics["failed"] == {}
    assert metrics["num_images"] == 60
    assert metrics["num_duplicates"] == 0
    assert metrics["scores"].keys() == {
        "gbc",
        "hscore",
        "hscore_shrunk",
        "knn",
        "knn_k5",
        "knn_k20",
        "knn_cosine",
        "leep",
        "logme",
        "nce",
        "nleep",
        "parc",
        "sfda",
        "transrate",
    }
    assert outcome.timing["seconds"].keys() == set(names("harness.transfer.scores"))
    assert metrics["scores"]["leep"] == leep.score(probs=train.probs, labels=train.labels)
    for name, options in {
        "knn": {},
        "knn_k5": {"k": 5},
        "knn_k20": {"k": 20},
        "knn_cosine": {"metric": "cosine"},
    }.items():
        assert metrics["scores"][name] == knn.score(
            features=train.features, labels=train.labels, **options
        )
    assert metrics["details"]["nleep"]["num_components"] == 15


def test_a_score_that_cannot_be_computed_is_reported_and_the_others_are_computed(
    root: Path, data: Result
):
    save_model(root / "headless", has_head=False)
    context = context_of(
        root,
        "blind",
        {**VIEW, "splits": ["train"]},
        {"model": as_result("adopt", {}), "data": data},
    )
    context.need_folders["model"] = root / "headless"
    blind = as_result("features", features.run(context).metrics)
    assert blind.metrics["has_probs"] is False and blind.metrics["num_source_classes"] is None
    context = context_of(
        root, "blind-score", {"scores": ["knn", "leep", "nce", "logme"]}, {"features": blind}
    )
    context.need_folders["features"] = root / "blind"
    metrics = score.run(context).metrics
    assert metrics["failed"].keys() == {"leep", "nce"}
    assert "no classes of its own" in metrics["failed"]["leep"]
    assert metrics["scores"].keys() == {"knn", "knn_k5", "knn_k20", "knn_cosine", "logme"}


def test_a_damaged_file_of_features_is_named(tmp_path: Path):
    (tmp_path / "train.npz").write_bytes(b"PK\x03\x04 no more")
    for name in ("train", "val"):
        with pytest.raises(UserError, match="is not a complete file of features"):
            Features.load(file_of(tmp_path, name))


def test_images_are_resized_as_the_model_expects_unless_the_recipe_sets_it(
    root: Path, tmp_path: Path, data: Result
):
    smaller = {**VIEW, "resolution": 20, "splits": ["val"]}
    seen: dict[str, np.ndarray] = {}
    for name, about, setting in (
        ("of the model", {"interpolation": "bicubic"}, "auto"),
        ("of the recipe", {}, "bicubic"),
        ("without either", {}, "auto"),
        ("over the model's", {"interpolation": "bicubic"}, "area"),
    ):
        save_model(tmp_path / name, **about)
        config = {**smaller, "interpolation": setting}
        context = context_of(root, name, config, {"model": as_result("adopt", {}), "data": data})
        outcome = features.run(
            replace(context, need_folders={**context.need_folders, "model": tmp_path / name})
        )
        seen[name] = Features.load(file_of(context.folder, "val")).features
        expected = "bicubic" if name.startswith("of") else "area"
        assert outcome.metrics["interpolation"] == expected
    assert np.array_equal(seen["of the model"], seen["of the recipe"])
    assert np.array_equal(seen["without either"], seen["over the model's"])
    assert not np.allclose(seen["of the model"], seen["without either"], atol=1e-4)
