"""Describe a search for hyper-parameters, for the result of a transfer stage."""

from typing import TYPE_CHECKING

from harness.config import grid
from harness.config.transfer import TransferSettings
from harness.transfer.search import Best, Search

if TYPE_CHECKING:
    from harness.stages.transfer.record import SearchRecord, Selection


def search_record(search: Search, best: Best) -> "SearchRecord":
    """Return the metrics that describe a search and its best model."""
    trained = best.trial.settings
    assert not isinstance(trained.steps, tuple)  # a list of `steps` becomes one stage per value
    return {
        **describe_selection(search.setup.settings),
        "val": best.val,
        "lr": best.trial.lr,
        "chosen": search.point_of(best.trial, best.crop),
        "grid": list(search.entries()),
        "num_epochs": None if trained.steps else trained.epochs,
        "num_steps": trained.steps or trained.epochs * search.setup.steps_per_epoch,
        "damaged_checkpoints": [
            line for clock in search.clocks for line in clock.damaged_checkpoints
        ],
    }


def describe_selection(settings: TransferSettings) -> "Selection":
    """Describe how hyper-parameters are selected."""
    policy = settings.policy
    return {
        "policy": policy if isinstance(policy, str) else policy.model_dump(mode="json"),
        "selected_on": "val",
        "num_configs": grid.num_configs(settings),
        "refit": settings.refit,
    }
