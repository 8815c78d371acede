"""`harness status`: the rows that are shown if there are many models, and the count of retries."""

import json
from pathlib import Path

from harness.cli.commands import status
from harness.matrix.stage import Stage
from harness.runner import retry


def test_unfinished_models_are_shown_first_if_there_are_too_many():
    rows = {(number,): {"pretrain": ["done"]} for number in range(status.MAX_ROWS + 50)}
    rows[(status.MAX_ROWS + 20,)] = {"pretrain": ["done"], "full": ["done", "failed"]}
    shown = status._shown(rows)
    assert len(shown) == status.MAX_ROWS
    assert (status.MAX_ROWS + 20,) in shown and (status.MAX_ROWS + 21,) not in shown
    assert list(shown) == sorted(shown)
    few = {(0,): {"pretrain": ["done"]}}
    assert status._shown(few) == few


def test_retries_are_counted_over_all_stages(tmp_path: Path):
    stages = [Stage("rank", {"number": number}) for number in range(3)]
    folder = stages[1].folder(tmp_path)
    folder.mkdir(parents=True)
    attempt = {"cause": "lost", "at": "2026-01-01T00:00:00+00:00", "message": ""}
    (folder / retry.FILE_NAME).write_text(json.dumps([attempt, attempt]))
    assert retry.total(stages, tmp_path) == 2
