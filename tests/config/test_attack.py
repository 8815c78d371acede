"""Attack settings: step sizes, defaults of the methods, and errors for settings without effect."""

import pytest
from pydantic import ValidationError

from harness.config.attack import AttackSettings, EvaluationAttack
from harness.config.recipe import EvaluateSettings


def test_the_step_size_is_set_or_follows_from_eps_and_steps():
    assert AttackSettings().step_length(3.0) == pytest.approx(2.5 * 3 / 3)
    assert AttackSettings(steps=7).step_length(3.0) == pytest.approx(2.5 * 3 / 7)
    assert EvaluationAttack().step_length(3.0) == pytest.approx(2.5 * 3 / 20)
    assert EvaluationAttack(steps=100).step_length(1.0) == pytest.approx(0.025)
    assert AttackSettings(relative_step_size=2 / 3).step_length(3.0) == pytest.approx(2.0)
    assert AttackSettings(step_size=0.5).step_length(3.0) == 0.5
    assert AttackSettings(steps=0).step_length(3.0) > 0


def test_eps_scales_with_resolution_if_eps_at_is_set():
    """The change per pixel stays that of eps 3 at 224 pixels: 3 * side / 224."""
    assert [
        round(AttackSettings(eps_at=224).eps_of(3.0, side), 2) for side in (224, 160, 192, 128)
    ] == [3.0, 2.14, 2.57, 1.71]
    assert AttackSettings().eps_of(3.0, 160) == 3.0


def test_restarts_need_a_random_start():
    assert EvaluationAttack(restarts=3, random_start="ball").restarts == 3
    with pytest.raises(ValidationError, match="restarts need a random_start"):
        EvaluationAttack(restarts=3)


def test_defaults_of_fast_and_free_are_the_published_ones():
    fast, free = AttackSettings(method="fast"), AttackSettings(method="free")
    assert (fast.steps, fast.random_start, fast.batch_norm, fast.step_length(0.4)) == (
        1,
        "ball",
        "train",
        0.5,
    )
    assert (free.replays, free.step_length(0.4)) == (4, 0.4)
    assert AttackSettings(method="fast", batch_norm="eval").batch_norm == "eval"


@pytest.mark.parametrize(
    "given",
    [{}, {"steps": 20}, {"method": "fast"}, {"method": "free", "replays": 8}, {"step_size": 0.1}],
)
def test_a_default_that_is_spelled_out_is_the_same_setting(given):
    attack = AttackSettings(**given)
    assert AttackSettings.model_validate(attack.model_dump()) == attack


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step_size": 0.1, "relative_step_size": 0.5}, "not both"),
        ({"norm": "linf", "eps_at": 224}, "eps_at has no effect"),
        ({"replays": 4}, "replays has an effect with method: free only"),
        (
            {"method": "fast", "steps": 2},
            "steps has no effect with method: fast, which fixes it at 1",
        ),
        (
            {"method": "fast", "random_start": "sphere"},
            "random_start has no effect with method: fast",
        ),
        ({"method": "free", "best_iterate": True}, "best_iterate has no effect with method: free"),
        ({"method": "free", "steps": 3}, "steps has no effect with method: free"),
        ({"method": "slow"}, "'pgd', 'fast' or 'free'"),
        ({"steps": "many"}, "valid integer"),
        ({"random_start": True}, "'none', 'ball' or 'sphere'"),
    ],
)
def test_a_setting_that_is_wrong_or_without_effect_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        AttackSettings.model_validate(given)


def test_models_are_evaluated_with_pgd_of_20_steps():
    assert EvaluateSettings().attack.steps == 20
    assert EvaluateSettings.model_validate({"attack": {"norm": "linf"}}).attack.steps == 20
    with pytest.raises(ValidationError, match="is for training only"):
        EvaluateSettings.model_validate({"attack": {"method": "fast"}})


def test_the_cost_of_an_attack_is_a_multiple_of_a_clean_training_step():
    """A PGD step costs two thirds of a training step, because it computes no gradient of weights.

    Keeping the best iterate adds a forward pass, a third of a training step.
    """
    assert AttackSettings(steps=3).num_passes == pytest.approx(2.0)
    assert AttackSettings(steps=3, best_iterate=True).num_passes == pytest.approx(7 / 3)
    assert AttackSettings(method="free").num_passes == 3.0
