"""The report in a browser: no console messages; a click or the address sorts tables."""

import html
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.report.render.page import write
from tests.helpers import study_fakes
from tests.helpers.report_fakes import make_recipe, make_results
from tests.helpers.report_html import Page

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH")

# Clicks a heading several times after the page's own script has run.
PRESS = (
    "<script>for (let n = 0; n < %d; n++) "
    "document.querySelectorAll('#%s thead button')[%d].click();</script></body>"
)
FILTER = """<script>{
  const field = document.getElementById("stages").closest("section").querySelector("input");
  field.value = "EPS0.5  seed1";
  field.dispatchEvent(new Event("input"));
}</script></body>"""
# A browser is slow to start, so all pages are opened once, in frames of one window. After loading,
# each frame is written as text: the widths of the page and its first table, then its content.
GATHER = """<script>onload = () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, found = document.createElement("pre");
    found.id = frame.name;
    const widths = [page.documentElement, page.querySelector("main > .table .scroll")].map((e) => e.scrollWidth);
    found.textContent = widths.join(" ") + "\\n" + page.documentElement.outerHTML;
    document.body.append(found);
  }
};</script>"""


@dataclass(frozen=True)
class Opened:
    """A page after its script has run, and the browser's console messages."""

    page: Page
    messages: list[str]
    width: int
    width_of_first_table: int


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5))
    results = [
        result for result in make_results(recipe) if result.name != "evaluate/all/eps0/seed0"
    ]
    return write(
        recipe, results, ["evaluate/all/eps0/seed0"], tmp_path_factory.mktemp("report"), ("html",)
    )


@pytest.fixture(scope="module")
def opened(report: Path) -> dict[str, Opened]:
    """Open copies of the report that differ in an added script, in address or in width.

    Returns the name of a copy -> the opened page.
    """
    text, folder = report.read_text(), report.parent
    top1 = Page(text).tables["transfers"][0].index("top-1")
    by_target = text.replace("</body>", PRESS % (1, "transfers", 0))
    pages = {
        "plain": text,
        "message": text.replace("</body>", '<script>console.error("seen")</script></body>'),
        "once": text.replace("</body>", PRESS % (1, "transfers", top1)),
        "twice": text.replace("</body>", PRESS % (2, "transfers", top1)),
        "by_target": by_target,
        "by_time_once": text.replace("</body>", PRESS % (1, "kinds", 2)),
        "by_time_twice": text.replace("</body>", PRESS % (2, "kinds", 2)),
        "filtered": text.replace("</body>", FILTER),
        "phone": text,
        "sorted": text,
        "sorted_by_no_table": text,
        "sorted_by_no_column": text,
    }
    fragments = {
        "sorted": "#sort=stages,3,descending",
        "sorted_by_no_table": "#sort=nowhere,3",
        "sorted_by_no_column": "#sort=stages,99",
    }
    recipe = study_fakes.recipe_for(study_fakes.TARGETS[:3], ("fixed", "full"))
    results = study_fakes.model_zoo(num_models=5, targets=study_fakes.TARGETS[:3])
    pages["models"] = write(recipe, results, [], folder / "of_models", ("html",)).read_text()
    for name, content in pages.items():
        (folder / f"{name}.html").write_text(content)
    frames = "".join(
        f'<iframe name="{name}" src="{name}.html{fragments.get(name, "")}" height="800" '
        f'width="{375 if name == "phone" else 1200}"></iframe>'
        for name in pages
    )
    (folder / "frames.html").write_text(
        f'<!doctype html><meta charset="utf-8"><body>{frames}{GATHER}</body>'
    )
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in messages if not any(f"/{name}.html" in line for name in pages)]
    found = {}
    for name, content in re.findall(r'<pre id="(\w+)">(.*?)</pre>', done.stdout, flags=re.DOTALL):
        widths, _, dom = html.unescape(content).partition("\n")
        width, of_table = map(int, widths.split())
        found[name] = Opened(
            Page(dom), [line for line in messages if f"/{name}.html" in line], width, of_table
        )
    assert list(found) == list(pages)
    return found


def test_the_console_is_empty_and_the_page_does_not_change_by_itself(
    report: Path, opened: dict[str, Opened]
) -> None:
    # The page with an added message shows that messages are found.
    assert {name for name, page in opened.items() if page.messages} == {"message"}
    page, as_written = opened["plain"].page, Page(report.read_text())
    assert page.tables == as_written.tables
    assert page.tags.count("svg") == as_written.tags.count("svg") > 3


def test_clicking_a_heading_sorts_and_again_reverses(
    report: Path, opened: dict[str, Opened]
) -> None:
    before = Page(report.read_text()).tables["transfers"]
    column = before[0].index("top-1")
    once, twice = opened["once"].page, opened["twice"].page
    states, turned = once.aria_sort["transfers"], twice.aria_sort["transfers"]
    assert (states[column], turned[column]) == ("descending", "ascending")
    assert set(states[:column] + states[column + 1 :]) == {"none"}
    values = [_first_number(row[column]) for row in once.tables["transfers"][1:]]
    assert values == sorted(values, reverse=True)
    assert values != [_first_number(row[column]) for row in before[1:]]
    assert sorted(once.tables["transfers"]) == sorted(before)
    assert [_first_number(row[column]) for row in twice.tables["transfers"][1:]] == sorted(values)


def test_text_sorts_ascending_and_empty_cells_stay_last(opened: dict[str, Opened]) -> None:
    by_target = opened["by_target"].page
    assert by_target.aria_sort["transfers"][0] == "ascending"
    targets = [row[0] for row in by_target.tables["transfers"][1:]]
    assert targets == sorted(targets) and len(set(targets)) == 2
    for name in ("by_time_once", "by_time_twice"):
        assert opened[name].page.tables["kinds"][-1][0] == "all"


def test_a_report_of_loaded_models_has_its_figures(opened: dict[str, Opened]) -> None:
    page = opened["models"].page
    # One of means; scatter, predictors and Elo for each of two methods.
    assert page.tags.count("figure") == 7 and page.loads == []


def test_a_long_table_is_filtered_by_words(opened: dict[str, Opened]) -> None:
    rows = [" ".join(row) for row in opened["plain"].page.tables["stages"][1:]]
    kept = [row for row in rows if "eps0.5" in row and "seed1" in row]
    assert 0 < len(kept) < len(rows)
    assert f"{len(kept)} of {len(rows)} rows" in opened["filtered"].page.text


def test_a_narrow_window_scrolls_tables_and_not_the_page(opened: dict[str, Opened]) -> None:
    """The page is in a frame, because a headless window is at least 500 pixels wide."""
    assert opened["phone"].width <= 375 < opened["phone"].width_of_first_table


def test_the_address_selects_the_sorted_column(opened: dict[str, Opened]) -> None:
    assert opened["sorted"].page.aria_sort["stages"] == ["none", "none", "none", "descending"]
    for name in ("sorted_by_no_table", "sorted_by_no_column"):
        assert opened[name].page.tables == opened["plain"].page.tables


def _first_number(text: str) -> float:
    found = re.match(r"[\d.]+", text)
    assert found, text
    return float(found.group())
