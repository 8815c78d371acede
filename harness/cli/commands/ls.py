"""List the names that a recipe or a command accepts."""

import ast
import importlib.util
import json
from pathlib import Path

import click

from harness.cli.options import folder_options
from harness.system.folders import Folders

# Kinds whose names are the modules of a package.
PACKAGES = {
    "datasets": "writers.datasets",
    "models": "harness.modeling.archs",
    "methods": "harness.transfer.methods",
    "scores": "harness.transfer.scores",
    "backends": "loaders.backends",
    "launchers": "harness.runner.launchers",
    "trackers": "harness.runner.trackers",
}
# Models of libraries, which have no module here.
ZOO = {
    "torchvision/NAME": "Any classifier of torchvision, cut before its last layer",
    "timm/NAME": "Any classifier of timm, cut before its last layer",
}
KINDS = (
    "datasets",
    "subsets",
    "models",
    "methods",
    "scores",
    "backends",
    "launchers",
    "trackers",
    "recipes",
)


@click.command(short_help="List the available names: datasets, models and so on.")
@click.argument("kind", required=False, metavar="[KIND]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: {kind: {name: description}}.")
@folder_options
def command(kind: str | None, as_json: bool, folders: Folders) -> None:
    """List the available names of all kinds, or of one KIND with a line about each.

    KIND: datasets, subsets, models, methods, scores, backends, launchers, trackers or recipes.

    harness ls datasets also shows splits, classes, metric and license of each dataset, and which of
    its files are on this machine. harness ls launchers also shows the options of each launcher.

    \b
    Examples:
    harness ls
    harness ls subsets
    harness ls recipes --json
    """
    from harness.cli import console
    from writers import names

    if kind is not None and kind not in KINDS:
        raise names.unknown("kind", kind, KINDS)
    descriptions = {name: describe(name) for name in ([kind] if kind else KINDS)}
    if as_json:
        click.echo(json.dumps(descriptions, indent=1))
        return
    if kind is None:
        for heading, lines in descriptions.items():
            click.echo(console.hanging(f"{len(lines):3} {heading:10}  ", ", ".join(lines)))
        click.echo("\nA line about each name: harness ls KIND, such as harness ls subsets")
    elif kind == "datasets":
        _print_datasets(descriptions[kind], folders)
    elif kind == "launchers":
        _print_launchers(descriptions[kind])
    else:
        width = max(map(len, descriptions[kind]), default=0)
        for name, line in descriptions[kind].items():
            click.echo(console.hanging(f"  {name:{width}}  ", line))


def describe(kind: str) -> dict[str, str]:
    """Return name -> one-line description for all names of a kind.

    Reads files without importing them, because some need torch.
    """
    from harness.config import load
    from writers import names
    from writers.subset import lists

    if kind == "recipes":
        return {name: _first_comment(load.FOLDER / f"{name}.yaml") for name in load.available()}
    if kind == "subsets":
        lines = {name: _first_comment(lists.file_of(name)) for name in lists.available()}
        return {"all": "Every class of the source", **lines}
    package = PACKAGES[kind]
    lines = {name: _first_docstring_line(f"{package}.{name}") for name in names.names(package)}
    return lines | (ZOO if kind == "models" else {})


def _first_docstring_line(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.partition("\n")[0]


def _first_comment(path: Path) -> str:
    """Return the first comment line of a recipe or class list, after a line for YAML editors."""
    lines = path.read_text().splitlines()
    return lines["yaml-language-server" in lines[0]].lstrip("# ").strip()


def _print_datasets(descriptions: dict[str, str], folders: Folders) -> None:
    from harness.cli import console
    from writers import names
    from writers.split_names import SPLITS

    specs = [
        names.find("writers.datasets", name, "dataset").SPEC
        for name in names.names("writers.datasets")
    ]
    rows = [("", *SPLITS, "classes", "raw", "betons", "metric", "license", "about")]
    for spec in specs:
        sizes = [
            f"{spec.split_sizes[split]:,}" if split in spec.split_sizes else "" for split in SPLITS
        ]
        raw = folders.raw / (spec.folder or spec.name)
        is_on_disk = raw.is_file() or (raw.is_dir() and any(raw.iterdir()))
        betons = sum(1 for _ in folders.data.glob(f"{spec.name}-*/*.beton"))
        rows.append(
            (
                spec.name,
                *sizes,
                str(spec.num_classes or ""),
                "generated" if spec.generated else "yes" if is_on_disk else "",
                str(betons or ""),
                spec.metric,
                spec.license,
                descriptions[spec.name],
            )
        )
    lines, dropped = console.fitting(rows, right=(1, 2, 3, 4, 6))
    click.echo("\n".join(lines) + "\n")
    for head, text in (
        ("val: ", "if none is published, `val:` of a recipe or --val takes it from train."),
        ("raw: ", f"found in {folders.raw}."),
        ("betons: ", f"number of files in {folders.data}."),
    ):
        click.echo(console.hanging(head, text))
    if dropped:
        columns = ", ".join(dropped)
        click.echo(console.hanging("", f"A wider terminal or a pipe also shows: {columns}."))


def _print_launchers(descriptions: dict[str, str]) -> None:
    from harness.cli import console
    from harness.runner.launcher import LauncherOptions
    from writers import names

    for name, line in descriptions.items():
        click.echo(console.hanging(f"{name:5}  ", line))
        options: type[LauncherOptions] = names.find(PACKAGES["launchers"], name, "launcher").Options
        width = max(map(len, options.model_fields), default=0)
        for key, field in options.model_fields.items():
            default = "" if field.default is None else f" (default: {field.default})"
            click.echo(
                console.hanging(f"         {key:{width}}  ", f"{field.description}{default}")
            )
    click.echo("\nharness run RECIPE --launcher NAME --launcher-option KEY=VALUE")
