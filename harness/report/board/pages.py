"""Format the pages of a board (a static leaderboard).

Pages load no other files: styles and scripts are inline, and a page lists their digests, so that
browsers run no others.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.report.board.replay import recipe_file
from harness.report.board.row import BoardRow
from harness.report.board.standings import Board, Target
from harness.report.board.tables import (
    ranking_table,
    repetitions_table,
    runs_table,
    target_table,
)
from harness.report.render.table_html import table_line
from writers.text_names import printable_lines

MAX_ROWS = 1000  # largest number of rows of a table in a page; longer tables slow browsers down
_FOLDER = Path(__file__).parent
_SETTINGS = ("methods", "pretrain", "variants", "evaluate", "subsets", "ranking", "targets")


class Pages:
    """Formats the pages of one board."""

    def __init__(self, content: Board, has_parquet: bool) -> None:
        """Read the styles, the script and the templates. has_parquet: link to `rows.parquet`."""
        self._content, self._has_parquet = content, has_parquet
        report_css = (_FOLDER.parent / "render" / "page.css").read_text()
        self._css = report_css + (_FOLDER / "board.css").read_text()
        self._js = (_FOLDER / "board.js").read_text()
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("harness.report.board", ""),
            autoescape=True,
            finalize=_finalize,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def index(self) -> str:
        """Format the leaderboard."""
        content = self._content
        questions = {str(recipe.get("question") or "") for recipe in content.recipes.values()}
        title = questions.pop() if len(questions) == 1 else ""
        return self._page(
            "index.html.j2",
            title or "Leaderboard",
            self._facts(content.rows),
            [("Leaderboard", "#"), ("Targets", "#targets"), ("Files", "#files")],
            introduction=(
                "Pretrained models, ranked by how well they transfer. A table holds the models "
                "that one method was run on with equal settings. Models and targets are matched "
                "by checksums of their settings and files, not by their names; see Protocol."
            ),
            rankings=[ranking_table(content, ranking) for ranking in content.rankings],
            repetitions=repetitions_table(content),
            targets=content.targets,
            has_parquet=self._has_parquet,
            recipes=[
                (str(recipe["name"]), recipe_file(digest, recipe))
                for digest, recipe in content.recipes.items()
            ],
        )

    def target(self, target: Target) -> str:
        """Format the page of one target."""
        facts = [
            *self._facts(target.rows, with_targets=False),
            ("test images", f"{target.rows[0].num_test_images:,}"),
            ("classes", f"{target.rows[0].num_target_classes or ''}"),
            ("test images, sha256", target.test_sha256[:16]),
        ]
        return self._page(
            "target.html.j2",
            target.name,
            [(name, value) for name, value in facts if value],
            [("Leaderboard", "../index.html")],
            up="../",
            rankings=[target_table(ranking, tasks) for ranking, tasks in target.rankings],
            runs=[
                runs_table(self._content, ranking, tasks, target.rows, MAX_ROWS)
                for ranking, tasks in target.rankings
            ],
        )

    def protocol(self) -> str:
        """Format the page that explains the protocol, with the settings of all recipes."""
        return self._page(
            "protocol.html.j2",
            "Protocol: how these numbers are measured",
            [],
            [("Leaderboard", "index.html")],
            recipes=[
                {
                    "name": str(recipe["name"]),
                    "digest": digest,
                    "question": str(recipe.get("question") or ""),
                    "file": recipe_file(digest, recipe),
                    "parts": [
                        (name, json.dumps(recipe[name], indent=1, sort_keys=True))
                        for name in _SETTINGS
                        if recipe.get(name)
                    ],
                }
                for digest, recipe in self._content.recipes.items()
            ],
        )

    def _page(
        self,
        template: str,
        title: str,
        facts: Sequence[tuple[str, str]],
        navigation: Sequence[tuple[str, str]],
        *,
        up: str = "",
        **values: Any,
    ) -> str:
        policy = (
            f"default-src 'none'; style-src '{_sha256(self._css)}'; "
            f"script-src '{_sha256(self._js)}'; base-uri 'none'; form-action 'none'"
        )
        protocol = ("Protocol", f"{up}protocol.html")
        return self._environment.get_template(template).render(
            title=title,
            facts=facts,
            navigation=[*navigation, protocol],
            policy=policy,
            css=Markup(self._css),
            js=Markup(self._js),
            line=table_line,
            max_rows=MAX_ROWS,
            **values,
        )

    def _facts(
        self, rows: Sequence[BoardRow], *, with_targets: bool = True
    ) -> list[tuple[str, str]]:
        """Return name and value of the facts below the title, such as the number of models."""
        models = {row.model_digest for row in rows}
        trained = {
            (row.model_digest, row.unit) for row in rows if row.pretrained_here and row.subset
        }
        people = sorted({row.by for row in rows if row.by})
        targets = {(row.kind, row.test_sha256 or row.target) for row in rows}
        facts: Mapping[str, str] = {
            "models": f"{len(models):,}",
            "pretrained by the recipes, counting seeds": f"{len(trained):,}" if trained else "",
            "targets": f"{len(targets):,}" if with_targets else "",
            "runs": f"{len(rows):,}",
            "recipes": f"{len({row.recipe for row in rows if row.recipe}):,}",
            "measured by": ", ".join(people) if len(people) <= 5 else f"{len(people)} groups",
            "latest": max(row.started_at for row in rows)[:10],
        }
        return [(name, value) for name, value in facts.items() if value]


def _finalize(value: object) -> object:
    """Replace control characters in text; markup, which comes from this package, is unchanged."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable_lines(str(value)) if is_text else value


def _sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
