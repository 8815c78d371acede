"""The key of a stage changes if, and only if, its results can change."""

import json
from dataclasses import replace

import pytest

from harness.matrix.stage import SharedConfig, Stage, canonical, key_of

DATA = Stage("write", {"data": {"dataset": "pets"}})
MODEL = Stage(
    "pretrain",
    {"eps": 0.5, "seed": 0},
    needs={"data": DATA},
    axes={"eps": 0.5},
    name="pretrain/pets",
)


def test_names_and_axes_do_not_change_the_key():
    assert replace(MODEL, name="other", axes={}).key == MODEL.key


def test_the_order_of_settings_does_not_change_the_key():
    assert replace(MODEL, config={"seed": 0, "eps": 0.5}).key == MODEL.key


def test_a_setting_of_the_stage_or_of_any_stage_it_needs_changes_the_key():
    other_data = replace(DATA, config={"data": {"dataset": "food"}})
    changed = [
        replace(MODEL, config={"eps": 1.0, "seed": 0}),
        replace(MODEL, needs={"data": other_data}),
        replace(MODEL, needs={"all_data": DATA}),
        replace(MODEL, kind="transfer"),
    ]
    assert len({stage.key for stage in [MODEL, *changed]}) == 5


def test_a_key_depends_on_kind_version_settings_and_needs_alone():
    """Results of many GPU-days are found by this hash: its form must not change by accident."""
    assert key_of("write", 1, DATA.config, {}) == "d7b6be732fb5c2f47393"
    assert key_of("write", 2, DATA.config, {}) == "1b8d8d2943e4a632427c"
    assert DATA.key == key_of("write", DATA.spec.version, DATA.config, {})


def test_shared_settings_are_written_as_plain_ones_and_cannot_be_changed():
    settings = {
        "lr": 1e-05,
        "name": "é\n",
        "none": None,
        "yes": True,
        "rates": [0.1, 1],
        "inner": {"b": 1, "a": {"c": 2.0}},
    }
    shared = SharedConfig(settings)
    for config in ({"settings": shared, "seed": 0}, shared):
        plain = json.loads(json.dumps(config))
        assert canonical(config) == json.dumps(plain, sort_keys=True, separators=(",", ":"))
        assert Stage("transfer", config).key == Stage("transfer", plain).key
    for change in (
        lambda: shared.update(lr=1),
        lambda: shared.pop("lr"),
        lambda: shared.__setitem__("lr", 1),
    ):
        with pytest.raises(TypeError, match="share these settings"):
            change()


def test_a_stage_with_shared_settings_has_the_key_of_one_with_plain_settings():
    config = {"eps": 0.5, "rates": [0.1, [1, None]]}
    needs = {"model": MODEL, "data": DATA, "common é": DATA}
    for used in ({}, {"data": DATA}, needs):
        keys = {role: stage.key for role, stage in used.items()}
        shared = SharedConfig(config)
        stages = [Stage("transfer", shared, used), Stage("features", shared, used)]
        for stage in stages:  # both kinds use the same SharedConfig, which caches its JSON
            assert stage.key == key_of(stage.kind, stage.spec.version, config, keys)


def test_a_gate_does_not_change_the_key():
    gated = MODEL.gated(DATA)
    assert gated == replace(MODEL, gated_by=DATA)
    assert gated.key == MODEL.key
