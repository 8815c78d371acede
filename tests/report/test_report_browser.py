"""The page in a real browser, where one is installed: no console message, tables sort by press and by address."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import study_fakes
from report_fakes import make_recipe, make_results
from report_html import Page

from harness.report.page import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH")

# Presses a heading, as a person would, once the page's own script has run.
PRESS = "<script>for (let n = 0; n < %d; n++) document.querySelectorAll('#%s thead button')[%d].click();</script></body>"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5))
    results = [result for result in make_results(recipe) if result.name != "evaluate/all/eps0/seed0"]
    return write(recipe, results, ["evaluate/all/eps0/seed0"], tmp_path / "report", ("html",))


def open_page(path: Path, fragment: str = "") -> Page:
    """The page as it stands after its script has run. Fails on anything that the browser complains of."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={path.parent / 'profile'}",
         "--enable-logging=stderr", "--v=0", "--dump-dom", path.as_uri() + fragment],
        capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return Page(done.stdout)


def headings(path: Path, table: str, presses: int, column: int) -> tuple[Page, list[str]]:
    """The page after so many presses, and the aria-sort of every heading of the table."""
    text = path.read_text()
    pressed = path.with_name("pressed.html")
    pressed.write_text(text.replace("</body>", PRESS % (presses, table, column)))
    found = open_page(pressed)
    return found, found.aria_sort[table]


def test_nothing_is_complained_of_and_nothing_changes_by_itself(page: Path) -> None:
    opened, as_written = open_page(page), Page(page.read_text())
    assert opened.tables == as_written.tables
    assert opened.tags.count("svg") == as_written.tags.count("svg") > 3


def test_a_complaint_would_be_seen(page: Path) -> None:
    page.write_text(page.read_text().replace("</body>", '<script>console.error("seen")</script></body>'))
    with pytest.raises(AssertionError, match="CONSOLE"):
        open_page(page)


def test_pressing_a_heading_sorts_by_it_and_again_turns_it_round(page: Path) -> None:
    before = Page(page.read_text()).tables["transfers"]
    column = before[0].index("top-1")
    once, states = headings(page, "transfers", 1, column)
    twice, turned = headings(page, "transfers", 2, column)
    assert (states[column], turned[column]) == ("descending", "ascending")
    assert set(states[:column] + states[column + 1:]) == {"none"}
    values = [_first_number(row[column]) for row in once.tables["transfers"][1:]]
    assert values == sorted(values, reverse=True) and values != [_first_number(row[column]) for row in before[1:]]
    assert sorted(once.tables["transfers"]) == sorted(before)
    assert [_first_number(row[column]) for row in twice.tables["transfers"][1:]] == sorted(values)


def test_words_sort_from_a_and_cells_without_a_value_stay_last(page: Path) -> None:
    by_target, states = headings(page, "transfers", 1, 0)
    assert states[0] == "ascending"
    targets = [row[0] for row in by_target.tables["transfers"][1:]]
    assert targets == sorted(targets) and len(set(targets)) == 2
    for presses in (1, 2):
        by_time, _ = headings(page, "kinds", presses, 2)
        assert by_time.tables["kinds"][-1][0] == "all"


def test_figures_of_models_stand_in_the_page_with_their_numbers(tmp_path: Path) -> None:
    recipe = study_fakes.recipe_for(study_fakes.TARGETS[:3], ("fixed", "full"))
    results = study_fakes.model_zoo(num_models=5, targets=study_fakes.TARGETS[:3])
    opened = open_page(write(recipe, results, [], tmp_path / "report", ("html",)))
    assert opened.tags.count("figure") == 6 and opened.loads == []      # scatter, predictors and Elo by each method


def test_a_phone_scrolls_tables_and_not_the_page(page: Path) -> None:
    """In a frame as wide as a phone, since a headless window is never narrower than 500 pixels."""
    measured = ("<script>onmessage = () => {}; parent.document.title = "
                "document.documentElement.scrollWidth + ' ' + document.querySelector('.scroll').scrollWidth</script></body>")
    phone = page.with_name("phone.html")
    phone.write_text(page.read_text().replace("</body>", measured))
    frame = page.with_name("frame.html")
    frame.write_text('<!doctype html><title></title><iframe src="phone.html" width="375" height="800" '
                     'style="border:0"></iframe>')
    assert CHROMIUM is not None
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
                           f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
                           frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    widths = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert widths and int(widths.group(1)) <= 375 < int(widths.group(2))


def test_an_address_opens_sorted(page: Path) -> None:
    opened = open_page(page, "#sort=stages,3,descending")
    assert opened.aria_sort["stages"] == ["none", "none", "none", "descending"]
    assert open_page(page, "#sort=nowhere,3").tables == open_page(page, "#sort=stages,99").tables


def _first_number(text: str) -> float:
    found = re.match(r"[\d.]+", text)
    assert found, text
    return float(found.group())
