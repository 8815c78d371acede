"""Provenance of results: the saved recipe has the same stages; inputs and outputs are hashed."""

import hashlib
from pathlib import Path

import pytest

from harness.config import load
from harness.matrix.expand import expand
from harness.runner import provenance
from harness.runner.result import Result


@pytest.mark.parametrize("name", ["demo", "robust_l2", "photos"])
def test_the_saved_text_is_the_recipe(name: str, tmp_path: Path):
    recipe = load.read(name, ["pretrain.epochs=15", "seeds=[3]"])
    saved = tmp_path / provenance.keep_recipe(recipe, tmp_path)
    assert saved == tmp_path / provenance.keep_recipe(recipe, tmp_path)
    assert len(list(saved.parent.iterdir())) == 1
    again = expand(load.read(saved))
    assert [stage.key for stage in again.stages] == [stage.key for stage in expand(recipe).stages]
    assert (
        provenance.keep_recipe(load.read(name), tmp_path) != saved.relative_to(tmp_path).as_posix()
    )


@pytest.mark.parametrize(
    "name", [name for name in load.available() if "\n  tiny:" in load.find(name).read_text()]
)
def test_the_saved_text_of_a_scaled_recipe_is_the_recipe(name: str, tmp_path: Path):
    recipe = load.read(name, ["scale=tiny"])
    again = load.read(tmp_path / provenance.keep_recipe(recipe, tmp_path))
    assert again == recipe.model_copy(update={"scale": None}) and again.name.endswith("_tiny")
    assert [stage.key for stage in expand(again).stages] == [
        stage.key for stage in expand(recipe).stages
    ]


def test_inputs_are_the_outputs_of_the_needed_stages(tmp_path: Path):
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
