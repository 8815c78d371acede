"""The site of a leaderboard: links resolve, pages load nothing and name no machine.

Its commands replay rows.
"""

import getpass
import json
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from harness.config.load import read
from harness.matrix.expand import expand
from harness.report.board import extract, site
from harness.report.board.exported import published_recipe
from tests.helpers.board_rows import export, row
from tests.helpers.report_fakes import make_recipe, make_results
from tests.helpers.report_html import Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PRIVATE = "/srv/private-folder/ada"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "board"
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5), methods=("full", "scratch"))
    private = {"path": f"{PRIVATE}/caltech101.tar"}
    recipe = recipe.model_copy(update={"source": recipe.source.model_copy(update=private)})
    results = [
        result.model_copy(update={"environment": {**result.environment, "cpu": f"{PRIVATE}/cpu"}})
        for result in make_results(recipe)
    ]
    site.publish(folder, [extract.export(recipe, results, "Ada"), export(row(method="<b>"))])
    return folder


def test_links_resolve_and_nothing_is_loaded(folder: Path) -> None:
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html")}
    assert len(pages) == 2 + 3 + 1
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), "an id occurs twice"
        assert {tag for tag, _ in page.loads} == {"a"}
        text = path.read_text()
        for address in re.findall(r'href="([^"]*)"', text):
            assert not re.match(r"[a-z]+:|//", address), address
            file, _, anchor = address.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file() and folder.resolve() in target.resolve().parents
            if anchor and target.suffix == ".html":
                assert (
                    anchor in pages[next(p for p in pages if p.resolve() == target.resolve())].ids
                )
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
        assert policy and "default-src &#39;none&#39;" in policy[1] and "unsafe" not in policy[1]
        assert "@import" not in text and "url(" not in text


def test_pages_contain_no_machine_name_or_path(folder: Path) -> None:
    private = [
        str(Path.home()),
        str(folder.parent),
        str(Path.cwd()),
        socket.gethostname(),
        "/srv",
        "private-folder",
    ]
    if len(getpass.getuser()) > 4:  # "root" is part of many words
        private.append(getpass.getuser())
    for file in folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for text in private:
            # A host name or a home folder may be a short word: do not find it in longer words.
            found = re.search(rb"(?<![\w-])%b(?![\w-])" % re.escape(text.encode()), content)
            assert not found, f"{text} in {file.name}"


def test_commands_plan_only_the_transfers_of_their_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command's settings, the recipe in the site plans only transfers of the row."""
    monkeypatch.chdir(folder / "recipes")
    text = "\n".join(path.read_text() for path in (folder / "targets").glob("*.html"))
    commands = sorted(set(re.findall(r"<pre>(harness run [^<]*)</pre>", text)))
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    transfers = [one for one in rows if one["kind"] == "transfer" and one["recipe"]]
    by_point = {
        tuple(one[axis] for axis in ("subset", "arch", "eps", "seed", "target", "method")): one
        for one in transfers
    }
    full = expand(read(next(Path().glob("photos-*.json"))))
    keys = {stage.key for stage in full.stages if stage.kind == "transfer"}
    checked = 0
    for command in commands[::3]:  # expanding a recipe takes time
        words = shlex.split(_unescape(command))
        assert words[:2] == ["harness", "run"] and Path(words[2]).is_file()
        overrides = [word for word in words[3:] if word != "--set"]
        point = json.loads(overrides[1].partition("=")[2])[0]
        stages = expand(read(words[2], overrides)).stages
        replayed = [stage for stage in stages if stage.kind == "transfer"]
        assert {stage.key for stage in replayed} <= keys
        if "method" not in point:
            continue  # an evaluation, with the transfers of its model
        if point["method"] == "full":
            (stage,) = replayed
            assert {axis: stage.axes[axis] for axis in point} == point
            assert tuple(point.values()) in by_point
        checked += 1
    assert checked >= 8


def _unescape(text: str) -> str:
    return Page(f"<p>{text}</p>").text


def test_published_recipes_have_no_paths_and_stable_digests() -> None:
    recipe = make_recipe()
    moved = recipe.model_copy(
        update={"source": recipe.source.model_copy(update={"path": "/data/x/caltech101.tar"})}
    )
    assert published_recipe(moved) == published_recipe(recipe)


STATE = "q=minus3&eps=0.5&sort={table}.mean.asc"
GATHER = """<script>addEventListener("load", () => {
  const frame = document.querySelector("iframe").contentWindow;
  const rows = [...frame.document.querySelectorAll("#%s tbody tr")];
  const shown = rows.filter((row) => !row.hidden).map((row) => row.id);
  const heading = [...frame.document.querySelectorAll("#%s thead button")].find((one) => one.textContent === "mean");
  heading.click();
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify({shown, order: rows.map((row) => row.id), hash: frame.location.hash, width: frame.document.documentElement.scrollWidth});
  document.body.append(found);
});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH")
def test_browser_filters_and_sorts_by_address(folder: Path, tmp_path: Path) -> None:
    table = next(
        name for name in Page((folder / "index.html").read_text()).tables if "full-" in name
    )
    frame = tmp_path / "frame.html"
    address = f"{(folder / 'index.html').as_uri()}#{STATE.format(table=table)}"
    frame.write_text(
        f'<iframe src="{address}" style="width:400px;height:900px"></iframe>'
        + GATHER % (table, table)
    )
    ended = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    messages = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    assert not messages
    found = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert found
    state = json.loads(_unescape(found[1]))
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    digests = {
        one["model_digest"][:8] for one in rows if one["subset"] == "minus3" and one["eps"] == 0.5
    }
    assert {name[-8:] for name in state["shown"]} == digests
    assert state["hash"] == f"#q=minus3&eps=0.5&sort={table}.mean.desc"
    assert state["width"] <= 400
    in_file = re.findall(rf'<tr id="({table}-[0-9a-f]+)"', (folder / "index.html").read_text())
    assert state["order"] == in_file[::-1]
