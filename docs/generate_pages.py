"""Generated pages of the documentation site: commands, recipes and their settings, costs, changes.

mkdocs calls the functions named on_*. Generated pages are not committed. Links from docs/ to files
elsewhere in the repository lead to copies in the site.
"""

import inspect
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages made of files elsewhere in the repository.
COPIED_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PAGE_OF = {**COPIED_PAGES, "README.md": "index.md"}
# Columns of the page of costs. A kind of stage that is missing here stops the build.
STAGE_KINDS = (
    "write",
    "adopt",
    "pretrain",
    "rank",
    "select",
    "view",
    "evaluate",
    "features",
    "score",
    "shortlist",
    "transfer",
)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    pages = {
        **_command_pages(),
        "recipes/index.md": _recipes_page(),
        "recipes/settings.md": _settings_page(),
        "recipes/costs.md": _costs_page(),
        **{page: (ROOT / name).read_text() for name, page in COPIED_PAGES.items()},
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files outside docs/ by links to copies of the files in the site."""

    def in_site(match: re.Match[str]) -> str:
        link = match[1]
        origin = {site: name for name, site in COPIED_PAGES.items()}.get(page.file.src_uri)
        folder = posixpath.dirname(origin or f"docs/{page.file.src_uri}")
        target = posixpath.normpath(posixpath.join(folder, link))
        if target in PAGE_OF:
            destination = PAGE_OF[target]
        elif target.startswith("docs/"):
            destination = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            # A further page cannot be added at this point, so Markdown is shown as text.
            destination = f"files/{target}" + (".txt" if target.endswith(".md") else "")
            if files.get_file_from_path(destination) is None:
                copied = File.generated(config, destination, abs_src_path=str(ROOT / target))
                files.append(copied)
        else:
            return link  # mkdocs reports broken links
        here = posixpath.dirname(page.file.src_uri)
        return posixpath.relpath(destination, here or ".")

    return LINK.sub(in_site, markdown)


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=prefix)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _command_pages() -> dict[str, str]:
    """Return one page per command, and an index, as path in the site -> Markdown."""
    from harness.cli.main import cli

    pages, rows = {}, []
    for name, command in _commands(cli, "harness"):
        file = name.removeprefix("harness ").replace(" ", "-") + ".md"
        context = click.Context(command, info_name=name, **cli.context_settings)
        usage = " ".join(command.collect_usage_pieces(context))
        lines = [f"# {name}", "", f"```text\n{name} {usage}\n```", "", _help_text(command), ""]
        options = [_option_row(option, context) for option in command.get_params(context)]
        if rows_of_options := [row for row in options if row]:
            lines += ["| option | meaning |", "|---|---|", *rows_of_options]
        pages[f"commands/{file}"] = "\n".join(lines) + "\n"
        rows.append(f"| [{name}]({file}) | {_cell(command.get_short_help_str(200))} |")
    table = ["| command | what it does |", "|---|---|", *rows]
    pages["commands/index.md"] = "\n".join(["# Commands", "", *table]) + "\n"
    return pages


def _help_text(command: click.Command) -> str:
    """Return a command's help as Markdown; paragraphs that click does not rewrap become code."""
    text = (command.help or "").split("\f")[0]
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if paragraph.lstrip().startswith("\b"):
            body = paragraph.replace("\b", "").strip("\n")
            title, *examples = body.strip().splitlines()
            if title.strip().rstrip(":") in ("Example", "Examples"):
                paragraphs.append(f"**{title.strip()}**")
            else:
                examples = [title, *examples]
            code = "\n".join(line.strip() for line in examples)
            paragraphs.append(f"```text\n{code}\n```")
        else:
            paragraphs.append(" ".join(paragraph.split()).replace("<", "&lt;"))
    return "\n\n".join(paragraphs)


def _option_row(parameter: click.Parameter, context: click.Context) -> str:
    record = parameter.get_help_record(context)
    if record is None:
        return ""
    names, meaning = record
    return f"| <code>{_cell(names)}</code> | {_cell(meaning)} |" if meaning else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;").replace("<", "&lt;")


def _recipe_files() -> list[Path]:
    return sorted((ROOT / "recipes").glob("*.yaml"))


def _recipes_page() -> str:
    """Return a page with the first comment of each recipe: paper, commands, published numbers."""
    lines = [
        "# Recipes",
        "",
        "A recipe is a YAML file in `recipes/`. `harness plan NAME` lists its stages.",
        "",
    ]
    for file in _recipe_files():
        head = []
        for line in file.read_text().splitlines():
            if not line.startswith("#"):
                break
            if not line.startswith("# yaml-language-server"):
                head.append(line.removeprefix("#").removeprefix(" "))
        lines += [f"## {file.stem}", "", "```text", *head, "```", ""]
    return "\n".join(lines) + "\n"


def _settings_page() -> str:
    """Return a page with the type, default and meaning of each setting of a recipe."""
    from harness.config.methods import available, settings_model
    from harness.config.recipe import Recipe

    lines = [
        "# Settings of a recipe",
        "",
        "Types are Python's. `None` is `null` in YAML. `base: NAME` inherits from another recipe,",
        "and `scales` holds settings that `--set scale=NAME` selects. Editors check recipes with",
        "`recipes/recipe.schema.json`.",
        "",
    ]
    models: dict[type, str] = {Recipe: "Recipe"}
    _collect(Recipe, models)
    for method in available():
        model = settings_model(method)
        models[model] = f"Method {method}"
        _collect(model, models)
    for model, title in models.items():
        lines += _settings_table(model, title)
    return "\n".join(lines) + "\n"


def _collect(model: Any, models: dict[type, str]) -> None:
    """Add the models of nested settings, each once."""
    from pydantic import BaseModel

    def visit(annotation: Any) -> None:
        is_settings = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if is_settings and annotation not in models:
            models[annotation] = annotation.__name__
            _collect(annotation, models)
        for argument in get_args(annotation):
            visit(argument)

    for field in model.model_fields.values():
        visit(field.annotation)


def _settings_table(model: Any, title: str) -> list[str]:
    meanings = _attributes(model)
    first = (model.__doc__ or "").strip().split("\n\n")[0]
    rows = []
    for name, field in model.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else f"`{field.get_default(call_default_factory=True)!r}`"
        )
        default = default if len(default) < 60 else "see its table"
        meaning = _cell(meanings.get(name) or field.description or "")
        rows.append(
            f"| `{name}` | `{_type_name(field.annotation)}` | {_cell(default)} | {meaning} |"
        )
    head = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    return [f"## {title}", "", " ".join(first.split()), "", *head, *rows, ""]


def _type_name(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"(?:[a-z_]+\.)+", "", text)
    return (
        text.replace("NoneType", "None").replace("|", "or") if len(text) < 100 else "see the schema"
    )


def _attributes(model: Any) -> dict[str, str]:
    """Return name -> meaning from the Attributes sections of a model and its base classes."""
    meanings: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not cls.__doc__ or cls.__module__.split(".")[0] not in ("harness", "writers", "loaders"):
            continue
        for section in griffe.Docstring(inspect.cleandoc(cls.__doc__)).parse(
            "google", warnings=False
        ):
            if section.kind is griffe.DocstringSectionKind.attributes:
                meanings |= {item.name: item.description for item in section.value}
    return meanings


def _costs_page() -> str:
    """Return a page with the number of stages of each kind, for each recipe."""
    from harness.config.load import read
    from harness.matrix.expand import expand

    lines = [
        "# Cost of each recipe",
        "",
        "Numbers of stages at full size, as `harness plan NAME` counts them. Hours depend on the",
        "device: `harness plan NAME --calibrate` times a few steps of each kind on yours and adds",
        "them up. GPU-hours: not measured yet. Each study's `scale=tiny` takes minutes on a CPU.",
        "",
    ]
    counts = {}
    for file in _recipe_files():
        matrix = expand(read(file))
        counts[file.stem] = Counter(stage.kind for stage in matrix.stages)
    kinds = sorted(set().union(*counts.values()), key=STAGE_KINDS.index)
    lines += [f"| recipe | all | {' | '.join(kinds)} |", "|---|" + "---:|" * (len(kinds) + 1)]
    for name, count in counts.items():
        cells = [f"{count[kind]:,}" if count[kind] else "" for kind in kinds]
        lines.append(
            f"| [{name}](index.md#{name}) | {sum(count.values()):,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"
