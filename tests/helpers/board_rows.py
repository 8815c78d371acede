"""Make rows of a leaderboard (harness/report/board) without a recipe."""

import dataclasses
import json
from typing import Any

from harness.report.board import exported
from harness.report.board.exported import Export
from harness.report.board.row import BoardRow

ROW = BoardRow(
    model_digest="1" * 16,
    task_digest="2" * 16,
    protocol_digest="3" * 16,
    seed=0,
    kind="transfer",
    model="",
    source="animals",
    subset="all",
    variant="",
    arch="resnet10",
    eps=0.0,
    target="grocery",
    method="full",
    per_class=None,
    steps=None,
    metric="top1",
    score=0.5,
    top1=0.5,
    mean_per_class=0.5,
    num_test_images=200,
    num_target_classes=10,
    num_configs=2,
    selected_on="val",
    pretrained_here=True,
    training="",
    num_source_classes=100,
    num_source_images=5000,
    num_parameters=1_000_000,
    source_accuracy=0.7,
    source_accuracy_from="measured",
    pretrain_s=600.0,
    pretrain_energy_wh=30.0,
    pretrain_memory_bytes=2**31,
    pretrain_gpu="NVIDIA A100",
    transfer_s=60.0,
    transfer_energy_wh=3.0,
    transfer_memory_bytes=2**30,
    gpu="NVIDIA A100",
    cpu="AMD EPYC",
    key="ab" * 10,
    weights_sha256="cd" * 32,
    test_sha256="ef" * 32,
    subset_digest="12" * 32,
    harness="0.1.0",
    torch="2.15.0",
    ffcv="1.0.2",
    python="3.11.9",
    revision="",
    started_at="2026-11-21T05:00:00+00:00",
)


def row(**changes: Any) -> BoardRow:
    return dataclasses.replace(ROW, **changes)


def export(*rows: BoardRow, name: str = "a.json") -> Export:
    return Export(name, rows, {})


def record(**changes: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(ROW), **changes}


def file_content(*records: Any, **others: Any) -> bytes:
    content = {"schema": exported.SCHEMA, "recipes": {}, "rows": list(records), **others}
    return json.dumps(content).encode()
