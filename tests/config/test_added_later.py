"""Settings that were added later leave the keys of existing stages as they are."""

import json
from typing import Any

import pytest

from harness.config.base import Settings
from harness.config.data import DataSettings
from harness.config.methods import settings_model
from harness.config.model import ModelSettings
from harness.config.train import PretrainSettings

MOCO = {"name": "moco", "checkpoint": "moco.pt", "arch": "resnet50"}
FULL = settings_model("full")


@pytest.mark.parametrize(
    ("model", "needed", "added"),
    [
        (DataSettings, {}, {"on_error": "skip", "labels": {"files": ["labels.csv"]}}),
        (ModelSettings, MOCO, {"part": "encoder_k"}),
        (PretrainSettings, {}, {"augment": "salman"}),
        (FULL, {}, {"augment": "salman", "order": "balanced", "keep_model": True}),
    ],
)
def test_a_setting_that_was_added_later_is_left_out_at_its_default(
    model: type[Settings], needed: dict[str, Any], added: dict[str, Any]
) -> None:
    assert added.keys() == model.ADDED_LATER
    plain = model.model_validate(needed).resolved()
    assert not plain.keys() & added.keys()
    for name, value in added.items():
        settings = model.model_validate({**needed, name: value})
        resolved = settings.resolved()
        assert resolved.keys() - plain.keys() == {name}
        again = model.model_validate_json(json.dumps(resolved), strict=True)
        assert getattr(again, name) == getattr(settings, name) != getattr(model(**needed), name)


def test_pretraining_has_its_order_in_the_keys() -> None:
    """Keys of pretrainings contain `order` also at its default, as they always did.

    The setting `order` of transfers was added later, so their keys leave out its default.
    """
    assert PretrainSettings().resolved()["order"] == "random"
