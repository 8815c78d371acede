"""What a result says of its origin: the recipe, which reads back as the same matrix; hashes of what it read and left."""

import hashlib
from pathlib import Path

import pytest

from harness.config import load as recipe
from harness.matrix import expand as matrix
from harness.runner import provenance
from harness.runner.result import Result


@pytest.mark.parametrize("name", ["demo", "robust_l2", "photos"])
def test_the_text_that_is_kept_is_the_recipe(name: str, tmp_path: Path):
    asked = recipe.read(name, ["pretrain.epochs=15", "seeds=[3]"])
    kept = tmp_path / provenance.keep_recipe(asked, tmp_path)
    assert (
        kept == tmp_path / provenance.keep_recipe(asked, tmp_path)
        and len(list(kept.parent.iterdir())) == 1
    )
    again = matrix.expand(recipe.read(kept))
    assert [stage.key for stage in again.stages] == [
        stage.key for stage in matrix.expand(asked).stages
    ]
    assert (
        provenance.keep_recipe(recipe.read(name), tmp_path) != kept.relative_to(tmp_path).as_posix()
    )


@pytest.mark.parametrize(
    "name", [name for name in recipe.available() if "\n  tiny:" in recipe.find(name).read_text()]
)
def test_the_text_of_a_scale_that_was_chosen_is_the_recipe(name: str, tmp_path: Path):
    asked = recipe.read(name, ["scale=tiny"])
    again = recipe.read(tmp_path / provenance.keep_recipe(asked, tmp_path))
    assert again == asked.model_copy(update={"scale": None}) and again.name.endswith("_tiny")
    assert [stage.key for stage in matrix.expand(again).stages] == [
        stage.key for stage in matrix.expand(asked).stages
    ]


def test_inputs_are_what_the_needed_stages_left(tmp_path: Path):
    def result(kind: str, **more: object) -> Result:
        return Result(
            kind=kind,
            key="",
            name="",
            axes={},
            config={},
            needs={},
            environment={},
            started_at="",
            wall_s=0,
            **{"metrics": {}, **more},
        )

    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "log.txt").write_text("no output")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert provenance.outputs(tmp_path, {}) == {"model.pt": digest}
    written = provenance.outputs(
        tmp_path / "none", {"splits": {"train": {"path": "things/train.beton", "sha256": "ab"}}}
    )
    data, model = result("write", outputs=written), result("pretrain", outputs={"model.pt": digest})
    assert provenance.inputs({"data": data, "model": model}) == {
        "data/things/train.beton": "ab",
        "model/model.pt": digest,
    }
