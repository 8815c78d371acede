"""What there is to name: each catalogue is a folder, each name a file, each description that file's first line."""

import ast
import importlib.util
from pathlib import Path

from harness.config import load as recipe
from writers import names
from writers.subset import spec as subset

PACKAGES = {
    "datasets": "writers.datasets",
    "models": "harness.modeling.archs",
    "methods": "harness.transfer.methods",
    "scores": "harness.transfer.scores",
    "backends": "loaders.backends",
    "launchers": "harness.runner.launchers",
}
ZOO = {
    "torchvision/NAME": "Any classifier of torchvision, cut before its last layer",
    "timm/NAME": "Any classifier of timm, cut before its last layer",
}
KINDS = ("datasets", "subsets", "models", "methods", "scores", "backends", "launchers", "recipes")


def entries(kind: str) -> dict[str, str]:
    """Name -> one line about it. Reads files and imports none of them: some need torch."""
    if kind == "recipes":
        return {name: _first_line(recipe.FOLDER / f"{name}.yaml") for name in recipe.available()}
    if kind == "subsets":
        lines = {name: _first_line(subset.file_of(name)) for name in subset.available()}
        return {"all": "Every class of the source", **lines}
    package = PACKAGES[kind]
    others = ZOO if kind == "models" else {}
    return {name: _docstring_line(f"{package}.{name}") for name in names.names(package)} | others


def _docstring_line(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.partition("\n")[0]


def _first_line(path: Path) -> str:
    """Of the comment that a recipe or a class list opens with, but for a line for editors."""
    lines = path.read_text().splitlines()
    return lines["yaml-language-server" in lines[0]].lstrip("# ").strip()
