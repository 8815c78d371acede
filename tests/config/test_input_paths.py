"""Input files that a recipe names are checked when it is planned; unreadable ones are refused.

The tests walk the settings models of a recipe, so a new text setting must be marked as a path or be
listed in NO_PATHS.
"""

import os
import re
import socket
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from harness.config import methods
from harness.config.input_paths import marker_of
from harness.config.load import read
from harness.config.recipe import Recipe
from harness.runner import inputs
from harness.system.folders import Folders
from writers.errors import UserError
from writers.regular_file import fault_of

# Settings of free text that name no file.
NO_PATHS = {
    *("DataSettings.dataset", "DataSettings.name", "DataSettings.protocol"),
    *("LabelTable.file_column", "LabelTable.label_columns", "LabelTable.split_column"),
    *("LabelTable.separator", "ModelSettings.name", "ModelSettings.arch", "ModelSettings.part"),
    *("Recipe.name", "Recipe.question", "Recipe.absent", "Recipe.scale", "Recipe.archs"),
    *("Recipe.scores", "EvaluateSettings.common", "ShortlistSettings.by"),
    *("ShortlistSettings.methods", "SubsetSpec.name", "SubsetSpec.classes", "Listed.classes"),
    *("Under.under", "Excluded.related_to", "Excluded.under", "Excluded.classes"),
    *(
        "ForTarget.target",
        "InfluenceSettings.arch",
        "InfluenceSettings.method",
        "MethodSettings.method",
    ),
    *(f"PointSettings.{axis}" for axis in ("subset", "arch", "variant", "model", "target")),
    "PointSettings.method",
}

MODEL: dict[str, Any] = {
    "models": [{"name": "m", "arch": "resnet10", "checkpoint": "w.pt"}],
    "targets": [{"dataset": "synthetic_patterns"}],
    "methods": {"fixed": {}},
}


def _with_model(**settings: Any) -> dict[str, Any]:
    return MODEL | {"models": [{"name": "m", "arch": "resnet10", "checkpoint": "w.pt"} | settings]}


def _subset(**step: Any) -> dict[str, Any]:
    return {"source": {"dataset": "synthetic_things"}, "subsets": [{"name": "x", **step}]}


def _source(**settings: Any) -> dict[str, Any]:
    return {"source": {"dataset": "folder", "name": "s", **settings}, "subsets": ["all"]}


# Setting -> its key in the error message, and a function from a path to a recipe with that path.
NAMED: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "DataSettings.path": ("source.path", lambda path: _source(path=path)),
    "LabelTable.files": ("source.labels.files.0", lambda path: _source(path=".", labels=path)),
    "Recipe.weights_dir": ("weights_dir", lambda path: MODEL | {"weights_dir": path}),
    "ModelSettings.checkpoint": (
        "models.0.checkpoint",
        lambda path: _with_model(checkpoint=path),
    ),
    "ModelSettings.classes": ("models.0.classes", lambda path: _with_model(classes=path)),
    "ByRanking.by": ("subsets.0.keep", lambda path: _subset(keep={"hardest": 2, "by": path})),
    "ByScores.by": ("subsets.0.el2n", lambda path: _subset(el2n={"keep": 9, "by": path})),
    "Coarser.map": ("subsets.0.granularity", lambda path: _subset(granularity={"map": path})),
    "Images.like": ("subsets.0.budget", lambda path: _subset(budget={"like": path})),
    "Examples.examples": ("subsets.0", lambda path: _subset(examples=path)),
}
# The same for files that are read as parts of the recipe, so that no setting has their path.
READ = {
    "base": ("base", lambda path: {"base": path}),
    "subset": ("subsets.0", lambda path: {"subsets": [path]}),
    "step": ("subsets.0", lambda path: {"subsets": [{"name": "x", "steps": [path]}]}),
}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Iterate over the pydantic models in a type annotation."""
    is_class = isinstance(annotation, type) and not typing.get_args(annotation)
    if is_class and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _settings() -> dict[str, Any]:
    """Return the fields of all settings models, by `Model.field`; Model declares the field."""
    waiting: list[type[BaseModel]] = [Recipe, *map(methods.settings_model, methods.available())]
    found: dict[str, Any] = {}
    seen = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            owner = next(base for base in reversed(model.__mro__) if name in _fields_of(base))
            found[f"{owner.__name__}.{name}"] = field
            waiting += _models(field.annotation)
    return found


def _fields_of(base: type) -> Any:
    return base.model_fields if issubclass(base, BaseModel) and base is not BaseModel else ()


def _is_text(annotation: Any) -> bool:
    """Return True if a value of the annotation, or an item of it, may be any text."""
    if annotation is str:
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return False
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        parts = parts[1:]
    return any(_is_text(part) for part in parts)


SETTINGS = _settings()
PATHS = {name for name, field in SETTINGS.items() if marker_of(field)}


def test_every_text_setting_is_a_path_or_is_listed_in_no_paths():
    texts = {name for name, field in SETTINGS.items() if _is_text(field.annotation)}
    texts = {name for name in texts if not name.endswith(".sha256")}
    assert NAMED.keys() == PATHS
    assert texts == PATHS | NO_PATHS


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.mkdir()


def _file(path: Path) -> None:
    path.write_text("x")


KINDS = {
    "a pipe": _pipe,
    "a device": _device,
    "a socket": _socket,
    "a link that leads back to itself": _loop,
}


def _plan(tmp_path: Path, part: dict[str, Any]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine"} | part))
    folders = Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")
    inputs.plan(read(file), folders)


@pytest.mark.parametrize("setting", sorted(NAMED | READ))
def test_special_files_are_refused_in_one_line_that_names_the_key(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    key, part = (NAMED | READ)[setting]
    kinds: dict[str, Callable[[Path], None]] = dict(KINDS)
    mark = marker_of(SETTINGS[setting]) if setting in SETTINGS else None
    if setting not in READ and not (mark and mark.folder):
        kinds["a folder"] = _folder
    if mark and not mark.file:
        kinds["a file"] = _file
    for number, (kind, make) in enumerate(kinds.items()):
        path = tmp_path / f"{number}.{'csv' if setting == 'LabelTable.files' else 'yaml'}"
        make(path)
        with pytest.raises(UserError) as caught:
            _plan(tmp_path, part(str(path)))
        line = str(caught.value).split("\n")[0]
        assert f"{key}" in line and f"{path} is {kind}" in line, (setting, kind, line)


@pytest.mark.parametrize("setting", sorted(NAMED | READ))
def test_names_that_no_file_can_have_are_refused(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw" / "weights").mkdir(parents=True)
    for name in ("a\0b.yaml", "~nobody_has_this_name/x.yaml", "a" * 300 + ".yaml"):
        key, part = (NAMED | READ)[setting]
        with pytest.raises(UserError, match=rf"{re.escape(key)}[^\n]*: [^\n]*\.(\n|$)"):
            _plan(tmp_path, part(name))


def test_the_default_folder_of_a_dataset_is_checked(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    os.mkfifo(tmp_path / "raw" / "pets")
    target = {"targets": [{"dataset": "pets"}], "methods": {"fixed": {}}}
    with pytest.raises(UserError, match=r"^targets\.0: .*pets is a pipe"):
        _plan(tmp_path, target | {"models": ["torchvision/resnet18"]})


def test_a_file_without_permission_is_refused(tmp_path: Path):
    file = tmp_path / "secret.csv"
    file.write_text("x")
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read every file")
    assert fault_of(file) == f"{file} cannot be read: Permission denied."


def test_files_and_folders_of_the_right_kind_and_absent_ones_have_no_fault(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link", "absent"):
        assert fault_of(tmp_path / name) is None
    assert fault_of(tmp_path, file=False, folder=True) is None
    assert fault_of(tmp_path) == f"{tmp_path} is a folder, not a file."
    assert "not a folder" in str(fault_of(tmp_path / "file", file=False, folder=True))
    assert "Not a directory" in str(fault_of(tmp_path / "file" / "x"))
