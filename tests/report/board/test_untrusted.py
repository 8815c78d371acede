"""Leaderboards from other people: size limits, checks and escaping.

Errors name file, row and field.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.report.board import exported, site
from harness.report.board.merge import merge
from harness.report.board.row import digest, names_path, publishable
from tests.helpers.board_rows import export, file_content, record, row
from tests.helpers.report_html import Page
from writers.errors import UserError

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
FORMULA = '=HYPERLINK("http://evil.example/","x")'
HOSTILE = {
    "markup": MARKUP,
    "attribute": '" onmouseover="alert(1)',
    "template": "{{ 7 * 7 }}{% include 'x' %}",
    "formula": FORMULA,
    "shell": "x'; rm -rf ~ #$(reboot)`reboot`",
    "end of script": "</script></style></pre></table>-->",
    "address": "javascript:alert(1)",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names_are_text_and_nothing_else(text: str, tmp_path: Path) -> None:
    names = dict.fromkeys(("subset", "arch", "target", "method", "by", "gpu", "torch"), text)
    if names_path(text):
        names = dict.fromkeys(names, text.replace("/", "|"))
    hostile = row(**names)
    read = exported.parse(file_content(record(**names)), "b.json")
    assert read.rows == (hostile,)
    folder = tmp_path / "board"
    site.publish(folder, [read, export(row(seed=1))])
    for file in folder.rglob("*.html"):
        page = Page(file.read_text())  # every tag is closed in order
        assert page.tags.count("script") == 1
        assert not {"img", "iframe", "object", "base"} & set(page.tags)
        assert all(
            not address.startswith(("http", "javascript", "//")) for _, address in page.loads
        )
    assert names["subset"] in Page((folder / "index.html").read_text()).text
    for name in ("rows.csv", "leaderboard.csv"):
        for line in csv.reader((folder / name).open()):
            assert not any(cell.startswith(("=", "@", "\t")) for cell in line)
    assert [path.name for path in tmp_path.iterdir()] == ["board"]


def test_recipe_names_do_not_become_paths(tmp_path: Path) -> None:
    recipe = {"name": "a|;<b>$(x)", "question": FORMULA.replace("/", "|"), "seeds": [0]}
    key = digest(recipe)
    content = file_content(record(recipe=key), recipes={key: recipe})
    site.publish(tmp_path, [exported.parse(content, "b.json")])
    assert [path.name for path in (tmp_path / "recipes").iterdir()] == [f"recipe-{key}.json"]
    Page((tmp_path / "protocol.html").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": 1.5}, "'score'"),
        ({"score": -0.1}, "'score'"),
        ({"score": "0.5"}, "'score'"),
        ({"score": None}, "'score'"),
        ({"score": float("nan")}, "'score'"),
        ({"pretrain_s": float("inf")}, "'pretrain_s'"),
        ({"pretrain_s": -1.0}, "'pretrain_s'"),
        ({"seed": 10**30}, "'seed'"),
        ({"seed": 0.5}, "'seed'"),
        ({"num_test_images": 0}, "'num_test_images'"),
        ({"model_digest": "../../etc/passwd"}, "'model_digest'"),
        ({"model_digest": "1" * 15 + "\n"}, "'model_digest'"),
        ({"key": "xyz"}, "'key'"),
        ({"metric": "bleu"}, "'metric'"),
        ({"kind": "other"}, "'kind'"),
        ({"started_at": "yesterday"}, "'started_at'"),
        (
            {"started_at": "2026-02-30T05:00:00+00:00"},
            "'started_at': Value error, there is no such",
        ),
        (
            {"started_at": "2026-11-21T25:00:00+00:00"},
            "'started_at': Value error, there is no such",
        ),
        ({"subset": "x" * 10_000_000}, "'subset'"),
        ({"subset": ["x"]}, "'subset'"),
        ({"subset": "a\x1b[31mb"}, "'subset'"),
        ({"subset": "a\u202eb"}, "'subset'"),
        ({"subset": "a\nb"}, "'subset'"),
        ({"subset": "/home/ada/secret"}, "'subset'"),
        ({"gpu": "file:///etc/passwd"}, "'gpu'"),
        ({"target": "../up"}, "'target'"),
        ({"by": "C:\\Users\\ada"}, "'by'"),
        ({"recipe": "9" * 16}, "recipe 9999999999999999"),
        ({"surprise": 1}, "'surprise'"),
    ],
)
def test_a_bad_value_names_file_row_and_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        exported.parse(file_content(record(), record(**changes)), "friend.json")
    text = str(raised.value)
    assert text.startswith("friend.json: ") and message in text
    assert "row 2" in text or "refers to recipe" in text
    assert len(text) < 600 and text.count("\n") == 1
    assert "\x1b" not in text


def test_a_missing_field_is_named() -> None:
    rest = record()
    del rest["score"]
    with pytest.raises(UserError, match=r"friend.json: row 1: 'score'"):
        exported.parse(file_content(rest), "friend.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"schema": "other", "rows": []}',
        file_content(5),
        file_content([]),
        file_content(rows={}),
        file_content(recipes=[]),
        file_content(extra=1),
    ],
)
def test_files_that_are_not_boards_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"friend.json"):
        exported.parse(content, "friend.json")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"name": "a", "base": "/etc/passwd"}, "'base'"),
        ({"name": "a", "scales": {}}, "'scales'"),
        ({"name": "a", "question": "see /home/ada"}, "path"),
        ({"name": "a", "targets": [{"path": "../../secret"}]}, "path"),
        ({"name": "a", "question": "x" * 10_000_000}, "characters"),
        ({"seeds": [0]}, "no name"),
        ([], "mapping"),
    ],
)
def test_bad_recipes_are_refused(recipe: Any, message: str) -> None:
    key = digest(recipe)
    content = file_content(record(recipe=key), recipes={key: recipe})
    with pytest.raises(UserError, match=message):
        exported.parse(content, "friend.json")


def test_deep_recipes_and_wrong_digests_are_refused() -> None:
    deep: Any = []
    for _ in range(50):
        deep = [deep]
    nested = {"name": "a", "eps": deep}
    for key, recipe, message in (
        (digest({"name": "a"}), {"name": "b"}, "do not have this digest"),
        (digest(nested), nested, "nested more than 20 levels deep"),
    ):
        content = file_content(record(recipe=key), recipes={key: recipe})
        with pytest.raises(UserError, match=rf"friend.json: recipe '{key}': .*{message}"):
            exported.parse(content, "friend.json")


def test_large_and_special_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "MAX_BYTES", 100)
    (tmp_path / "rows.json").write_bytes(file_content(record()))
    with pytest.raises(UserError, match="more than 100"):
        exported.read(tmp_path)
    with pytest.raises(UserError, match="not a regular file"):
        exported.read(Path("/dev/zero"))
    with pytest.raises(UserError, match="cannot be read"):
        exported.read(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ada/photos/cats", "cats"),
        ("weights from /data/x/y.pt and ~/z/w.pt", "weights from y.pt and w.pt"),
        ("C:\\Users\\ada\\cats", "cats"),
        ("\\\\server\\share\\cats", "cats"),
        ("file:///tmp/a/b", "b"),
        ("torchvision/resnet50@IMAGENET1K_V1", "torchvision/resnet50@IMAGENET1K_V1"),
        ("eps 8/255", "eps 8/255"),
        ("a / b", "a / b"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) CPU @ 2.20GHz"),
        ("../../up", "_/_/up"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
    ],
)
def test_names_of_results_lose_paths_and_control_characters(text: str, expected: str) -> None:
    assert publishable(text) == expected
    assert not names_path(publishable(text))


def test_published_rows_can_be_read_again(tmp_path: Path) -> None:
    """The checks accept a row with any text that a result may have."""
    for text in (*HOSTILE.values(), "/a/b", "a\x00b", "\ud800", " /etc ", "x" * 1000, "é" * 300):
        hostile = row(subset=publishable(text), by=publishable(text))
        written = "".join(exported.to_json((hostile,), {})).encode()
        assert exported.parse(written, "own").rows == (hostile,)
        assert merge([export(hostile)]).rows == (hostile,)


def test_json_is_plain_ascii_lines() -> None:
    text = "".join(exported.to_json((row(subset="é"), row(seed=1)), {"1" * 16: {"name": "a"}}))
    assert text.isascii()
    assert len(json.loads(text)["rows"]) == 2


def test_links_out_of_a_board_are_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "page.html").write_text("mine")
    board = tmp_path / "board"
    site.publish(board, [export(row())])
    shutil.rmtree(board / "targets")
    (board / "targets").symlink_to(mine)
    with pytest.raises(UserError, match="link"):
        site.publish(board, [export(row(seed=1))])
    assert [file.name for file in mine.iterdir()] == ["page.html"]
