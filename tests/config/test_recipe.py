"""Settings models: defaults, conflicts between settings, and labels of datasets."""

import pytest
from pydantic import ValidationError

from harness.config.data import DataSettings
from harness.config.recipe import Recipe
from harness.config.train import ScheduleSettings
from harness.config.transfer import TransferSettings

SMALLEST = {"name": "tiny", "source": {"path": "photos"}, "subsets": ["all"]}


def test_the_smallest_recipe_is_enough():
    recipe = Recipe.model_validate(SMALLEST)
    assert recipe.subsets[0].name == "all"
    assert recipe.eps == (0.0,)
    assert recipe.source.label == "photos"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 3}, "Extra inputs are not permitted"),
        ({"name": "Not A Name"}, "pattern"),
        ({"eps": [0, 0.0]}, "eps names a value twice"),
        ({"eps": [-1]}, "greater than or equal to 0"),
        ({"seeds": []}, "at least 1 item"),
        ({"seeds": [2**64]}, "less than or equal to 4611686018427387904"),
        ({"subsets": ["all", "all"]}, "same name"),
        (
            {"targets": [{"path": "a/pets"}, {"path": "b/pets.tar"}], "methods": {"full": {}}},
            "same name",
        ),
        ({"targets": [{"path": "pets"}]}, "targets and methods go together"),
        ({"methods": {"full": {}}}, "targets and methods go together"),
        ({"ranking": {}}, "by: reference"),
        (
            {"subsets": [{"name": "easy", "remove": {"hardest": 1, "by": "reference"}}]},
            "by: reference",
        ),
        ({"pretrain": {"batch_size": 0}}, "greater than or equal to 1"),
        ({"pretrain": {"label_smoothing": 1.0}}, "less than 1"),
    ],
)
def test_a_setting_that_is_wrong_or_without_effect_is_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate(SMALLEST | change)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "step"}, "schedule: step needs either step_epochs or step_at"),
        ({"schedule": "cosine", "step_epochs": 30}, "has an effect with schedule: step only"),
        ({"schedule": "cosine", "step_factor": 0.5}, "has an effect with schedule: step only"),
        ({"momentum": 0, "nesterov": True}, "nesterov needs momentum > 0"),
    ],
)
def test_schedule_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        ScheduleSettings.model_validate(settings)


def test_a_transfer_method_takes_its_learning_rates_from_the_grid_only():
    assert TransferSettings().lrs == (0.01, 0.001)
    with pytest.raises(ValidationError, match="lrs"):
        TransferSettings.model_validate({"optimizer": {"lr": 0.1}})


@pytest.mark.parametrize(
    ("data", "label"),
    [
        ({"dataset": "pets"}, "pets"),
        ({"path": "some/where/my-photos.tar"}, "my-photos"),
        ({"path": "photos/"}, "photos"),
        ({"path": "photos", "name": "mine"}, "mine"),
        ({"dataset": "caltech101", "path": "x.tar"}, "caltech101"),
    ],
)
def test_a_dataset_is_labeled_by_its_name_or_its_folder(data, label):
    assert DataSettings.model_validate(data).label == label
