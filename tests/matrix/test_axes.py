"""Variants, `include` and `exclude`: which models and transfers they add or drop."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from harness.config.train import PretrainSettings
from harness.matrix.expand import expand
from tests.helpers.small_matrix import by_name, recipe


def variants() -> dict[str, PretrainSettings]:
    return {
        "plain": PretrainSettings(),
        "smooth": PretrainSettings(label_smoothing=0.1),
        "fast": PretrainSettings(attack={"method": "fast"}),
    }


def test_variants_are_an_axis_of_pretraining_and_share_equal_stages():
    changed, known = (
        recipe(variants=variants(), seeds=[0]),
        {stage.key for stage in expand(recipe(seeds=[0])).stages},
    )
    stages = by_name(expand(changed))
    assert stages["pretrain/all/smooth/eps0/seed0"].axes == {
        "subset": "all",
        "arch": "resnet10",
        "variant": "smooth",
        "eps": 0.0,
        "seed": 0,
    }
    assert stages["pretrain/all/smooth/eps0/seed0"].config["settings"]["label_smoothing"] == 0.1
    assert {name for name, stage in stages.items() if "/plain/" in name} == {
        name
        for name, stage in stages.items()
        if stage.key in known
        and name.split("/")[0] not in ("write", "rank")
        and "reference" not in name
    }, "stages of the plain variant have the keys of the recipe without variants"
    assert (
        "pretrain/all/fast/eps0/seed0" not in stages and "pretrain/all/fast/eps0.5/seed0" in stages
    ), "without an attack, the variant `fast` equals `plain`"
    transfer = stages["transfer/synthetic_patterns/full/all/smooth/eps0/seed0"]
    assert transfer.axes["variant"] == "smooth"
    assert transfer.needs["model"] is stages["pretrain/all/smooth/eps0/seed0"]


def test_a_variant_is_evaluated_at_its_own_resolution():
    changed = recipe(
        variants={"plain": PretrainSettings(), "large": PretrainSettings(eval_resolution=256)},
        scores=["knn"],
    )
    stages = by_name(expand(changed))
    for kind in ("evaluate", "features/synthetic_patterns"):
        assert stages[f"{kind}/all/large/eps0/seed0"].config["resolution"] == 256
        assert stages[f"{kind}/all/plain/eps0/seed0"].config["resolution"] == 224


def names_of(**changes: Any) -> set[str]:
    return set(by_name(expand(recipe(**changes))))


@pytest.mark.parametrize(
    ("entry", "dropped"),
    [
        ({"subset": "minus2", "eps": 0.5}, lambda name: "/minus2/eps0.5/" in name),
        ({"seed": [0, 1], "eps": 0.5}, lambda name: "/eps0.5/" in name),
        (
            {"subset": "minus2"},
            lambda name: "minus2" in name or name.startswith("rank") or "reference" in name,
        ),
        (
            {"target": "synthetic_scenes", "method": "full"},
            lambda name: "synthetic_scenes/full" in name,
        ),
        (
            {"target": "synthetic_scenes", "eps": 0},
            lambda name: "synthetic_scenes" in name and "/eps0/" in name,
        ),
        ({"target": "synthetic_scenes"}, lambda name: "synthetic_scenes" in name),
        ({"subset": "min*", "eps": 0.5}, lambda name: "/minus2/eps0.5/" in name),
        ({"target": ["*_scenes"]}, lambda name: "synthetic_scenes" in name),
    ],
)
def test_exclude_drops_matching_stages_and_data_that_becomes_unused(
    entry: dict[str, Any], dropped: Callable[[str], bool]
):
    everything, few = names_of(), names_of(exclude=[entry])
    assert few == {name for name in everything if not dropped(name)} != everything


def test_common_classes_are_those_of_the_subsets_that_are_trained_on():
    stages = by_name(expand(recipe(exclude=[{"subset": "minus2"}])))
    assert set(stages["evaluate/all/eps0/seed0"].needs) == {"model", "data", "common_0"}


def test_include_adds_models_and_transfers_outside_the_product():
    plain = names_of(seeds=[0])
    added = names_of(seeds=[0], include=[{"subset": "all", "eps": 1}]) - plain
    assert Counter(name.split("/")[0] for name in added) == {
        "pretrain": 1,
        "evaluate": 1,
        "transfer": 4,
    }
    entry = {
        "eps": 0,
        "subset": "all",
        "seed": [5, 6],
        "target": "synthetic_scenes",
        "method": "full",
    }
    added = names_of(seeds=[0], include=[entry])
    assert {name for name in added if "/seed5" in name} == {
        "pretrain/all/eps0/seed5",
        "evaluate/all/eps0/seed5",
        "transfer/synthetic_scenes/full/all/eps0/seed5",
    }
    archs = names_of(seeds=[0], include=[{"arch": "resnet18", "subset": "all", "eps": 0}])
    assert "pretrain/all/resnet18/eps0/seed0" in archs
    assert "pretrain/all/resnet10/eps0/seed0" in archs


def test_include_restores_a_part_of_what_exclude_drops():
    found = names_of(
        exclude=[{"method": "full"}],
        include=[{"method": "full", "target": "synthetic_scenes", "eps": 0.5}],
    )
    kept = {name for name in found if "/full/" in name}
    assert len(kept) == 4
    assert all(
        name.startswith("transfer/synthetic_scenes/full/") and "/eps0.5/" in name for name in kept
    )
