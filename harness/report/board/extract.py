"""Turn the results of a recipe into rows of a board (a static leaderboard)."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from harness.config.recipe import Recipe
from harness.report.board.exported import Export, published_recipe
from harness.report.board.identity import (
    ModelFacts,
    TaskFacts,
    evaluation_facts,
    model_facts,
    scratch_facts,
    transfer_facts,
)
from harness.report.board.row import BoardRow, publishable
from harness.report.data import rows as report_rows
from harness.report.data.collection import Collection
from harness.report.data.records import TransferRow, format_eps
from harness.runner.result import RERUN, Result
from writers.errors import UserError

VIEW = "common_masked"  # the report's source accuracy: predictions restricted to common classes


def board_rows(recipe: Recipe, results: Collection, recipe_digest: str, by: str) -> list[BoardRow]:
    """Make one row per transfer and per accuracy on the common source classes.

    Models or data of the same content under two names count once, as in the report.

    Args:
        recipe: the recipe of the results.
        results: finished stages.
        recipe_digest: digest of the published recipe.
        by: name of the person or group.
    """
    provenance = _Provenance(recipe, results, {"recipe": recipe_digest, "by": publishable(by)})
    transfers = [provenance.transfer_row(row) for row in report_rows.transfer_rows(results)]
    evaluations = [
        row for result in results.evaluations for row in provenance.evaluation_rows(result)
    ]
    return [*transfers, *evaluations]


def export(recipe: Recipe, results: Iterable[Result], by: str) -> Export:
    """Make the rows of a recipe's results, and the recipe's settings without local paths."""
    recipe_digest, settings = published_recipe(recipe)
    collection = Collection(recipe, results)
    rows = tuple(board_rows(recipe, collection, recipe_digest, by))
    return Export(f"recipe {recipe.name}", rows, {recipe_digest: settings})


class _Provenance:
    """Makes rows, and computes the digests of each model only once."""

    def __init__(self, recipe: Recipe, results: Collection, labels: dict[str, Any]) -> None:
        self._source = recipe.source.label if recipe.source else ""
        self._results, self._labels = results, labels
        self._models: dict[str, ModelFacts] = {}

    def transfer_row(self, row: TransferRow) -> BoardRow:
        result = self._results.by_key[row.key]
        model = None if row.is_scratch else self._results.model(result)
        # The numbers come from the report's row; digests and costs are added.
        return _row(
            result,
            **self._model_fields(result, model),
            **_task_fields(transfer_facts(self._results, result)),
            kind="transfer",
            eps=row.eps,
            seed=row.seed,
            target=publishable(row.target),
            method=publishable(row.method),
            per_class=row.per_class,
            steps=row.steps,
            metric=row.metric,
            score=row.score,
            top1=row.top1,
            mean_per_class=row.mean_per_class,
            num_test_images=row.num_images,
            num_target_classes=row.num_answers,
            num_configs=row.num_configs,
            selected_on=publishable(row.selected_on),
            source_accuracy=None if row.is_scratch else row.source_accuracy,
            source_accuracy_from="" if row.is_scratch else row.source_accuracy_from,
            training=publishable(row.training),
            **_measured(result),
            **self._labels,
        )

    def evaluation_rows(self, result: Result) -> Iterator[BoardRow]:
        model = self._results.model(result)
        record = result.metrics.get("attack") or {}
        attack_name = f"{record.get('norm')} eps {format_eps(record.get('eps') or 0.0)}"
        for attack, method in (("clean", "clean"), ("adversarial", attack_name)):
            scores = (result.metrics.get(attack) or {}).get(VIEW)
            if scores is None or model is None:
                continue
            yield _row(
                result,
                **self._model_fields(result, model),
                **_task_fields(evaluation_facts(self._results, result, attack)),
                kind="source",
                eps=result.axes.get("eps") or 0.0,
                seed=result.axes.get("seed") or 0,
                target=publishable(self._source),
                method=publishable(method),
                per_class=None,
                steps=None,
                metric="top1",
                score=scores["top1"],
                top1=scores["top1"],
                mean_per_class=scores.get("mean_per_class"),
                num_test_images=scores["num_images"],
                num_target_classes=result.metrics["num_common_classes"],
                num_configs=None,
                selected_on="",
                source_accuracy=self._results.source_accuracy(model),
                source_accuracy_from=self._results.source_accuracy_from(model),
                training="",
                **_measured(result),
                **self._labels,
            )

    def _model_fields(self, result: Result, model: Result | None) -> dict[str, Any]:
        """Return the fields on a model and its pretraining; `model` is None for random weights."""
        facts = self._facts(result, model)
        axes = result.axes
        trained = model if model is not None and model.kind == "pretrain" else None
        metrics = model.metrics if model is not None else {}
        is_loaded = model is not None and trained is None
        wall_s = None if trained is None else trained.wall_s
        num_processes = metrics.get("num_processes") or 1
        return {
            "model_digest": facts.digest,
            "weights_sha256": facts.weights_sha256,
            "subset_digest": facts.subset_digest,
            "model": publishable(axes.get("model", "")),
            "source": publishable(self._source) if trained is not None else "",
            "subset": publishable(axes.get("subset", "")) if model is not None else "",
            "variant": publishable(axes.get("variant", "")) if model is not None else "",
            "arch": publishable(axes.get("arch") or metrics.get("arch") or ""),
            "pretrained_here": not is_loaded,
            "num_source_classes": metrics.get("num_classes"),
            "num_source_images": metrics.get("num_train_images"),
            "num_parameters": metrics.get("num_parameters"),
            "pretrain_s": None if wall_s is None else wall_s * num_processes,
            "pretrain_energy_wh": _energy(trained) if trained else None,
            "pretrain_memory_bytes": trained.gpu_memory_bytes if trained else None,
            "pretrain_gpu": publishable(trained.environment.get("gpu") or "") if trained else "",
        }

    def _facts(self, result: Result, model: Result | None) -> ModelFacts:
        if model is None:
            return scratch_facts(result)
        if model.key not in self._models:
            self._models[model.key] = model_facts(self._results, model)
        return self._models[model.key]


def _row(result: Result, **fields: Any) -> BoardRow:
    """Make a row from the numbers of a result.

    Raises:
        UserError: a number is impossible, because the result was edited or damaged.
    """
    try:
        return BoardRow(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"The result of {result.name} has a wrong {field}: {first['msg']}.", RERUN
        ) from error


def _task_fields(facts: TaskFacts) -> dict[str, Any]:
    return {
        "task_digest": facts.digest,
        "protocol_digest": facts.protocol_digest,
        "test_sha256": facts.test_sha256,
    }


def _measured(result: Result) -> dict[str, Any]:
    """Return cost and versions of the stage that measured the score."""
    environment = result.environment
    packages = environment.get("packages") or {}
    return {
        "key": result.key,
        "transfer_s": result.wall_s,
        "transfer_energy_wh": _energy(result),
        "transfer_memory_bytes": result.gpu_memory_bytes,
        "gpu": publishable(environment.get("gpu") or ""),
        "cpu": publishable(environment.get("cpu") or ""),
        **{name: publishable(packages.get(name)) for name in ("harness", "torch", "ffcv")},
        "python": publishable(environment.get("python") or ""),
        "revision": publishable(environment.get("git_revision") or ""),
        "started_at": result.started_at,
    }


def _energy(result: Result) -> float | None:
    """Return the watt-hours that the GPU used during the stage; None if not measured."""
    energy: float | None = (result.timing.get("gpu") or {}).get("energy_wh")
    return energy
