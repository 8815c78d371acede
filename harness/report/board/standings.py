"""Compute the rankings of a board (a static leaderboard), with the report's means and intervals.

The unit of replication is the pretrained model: repetitions of one run are averaged first, and the
transfers of a loaded model (one of a recipe's `models`) with several seeds count as one.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.report.board.merge import Merged
from harness.report.board.row import BoardRow, digest
from harness.report.data.records import format_eps
from harness.report.stats.intervals import SeedMean, seed_mean
from harness.report.stats.leaderboard import largest_block

SHORT = 8  # number of hex digits of a digest that are shown


@dataclass(frozen=True)
class Task:
    """One target with one method's settings: a column of a ranking.

    Attributes:
        name: label of the target; for source classes, the kind of evaluation.
        target_page: name of the target's page, without extension.
    """

    digest: str
    name: str
    metric: str
    num_test_images: int
    target_page: str


@dataclass(frozen=True)
class Standing:
    """One model in a ranking.

    Attributes:
        rank: 1 is the best. Models are ranked by the mean, or by the ranking's first task if no
            model has a mean. None means the model lacks this number.
        mean: mean over the ranking's common targets; None if the model lacks one of them.
        scores: digest of a task -> mean over pretrained models.
        rows: the model's runs in this ranking.
    """

    model_digest: str
    name: str
    rank: int | None
    mean: SeedMean | None
    scores: Mapping[str, SeedMean]
    rows: tuple[BoardRow, ...]

    @property
    def first(self) -> BoardRow:
        """A row of the model, for facts that all of its rows share."""
        return self.rows[0]

    @property
    def num_units(self) -> int:
        """Number of pretrained models."""
        return len({row.unit for row in self.rows})

    def uses(self, device: str) -> bool:
        """True if a run has a value in the field `device`, which is `pretrain_gpu` or `gpu`."""
        return any(getattr(row, device) for row in self.rows)

    def cost(self, field: str, on: str | None = None) -> float | None:
        """Mean of a cost over pretrained models; None if it was not measured.

        Args:
            field: name of a cost.
            on: average only runs that have a value in this field, such as gpu; None means all.
        """
        by_unit: defaultdict[int, list[float]] = defaultdict(list)
        for row in self.rows:
            value = getattr(row, field)
            if value is not None and (on is None or getattr(row, on)):
                by_unit[row.unit].append(value)
        return statistics.fmean(map(statistics.fmean, by_unit.values())) if by_unit else None


@dataclass(frozen=True)
class Ranking:
    """All models that were measured by one method with the same settings, or on one source.

    Attributes:
        name: HTML id of the table.
        tasks: columns of the table.
        common: tasks that the mean is taken over; empty if there is no mean.
    """

    name: str
    title: str
    kind: str
    protocol_digest: str
    tasks: tuple[Task, ...]
    common: tuple[Task, ...]
    standings: tuple[Standing, ...]


@dataclass(frozen=True)
class Target:
    """Content of the page of one target.

    Attributes:
        page: name of the page, without extension.
        test_sha256: digest of the test images; "" if unknown.
        rankings: each ranking with this target, and its tasks on it.
    """

    page: str
    name: str
    kind: str
    test_sha256: str
    rows: tuple[BoardRow, ...]
    rankings: tuple[tuple[Ranking, tuple[Task, ...]], ...]


@dataclass(frozen=True)
class Repetition:
    """Several measurements of one model, task and seed."""

    rows: tuple[BoardRow, ...]

    @property
    def differs(self) -> bool:
        """True if the scores are not all equal."""
        return len({row.score for row in self.rows}) > 1

    @property
    def spread(self) -> float:
        """Difference of the highest and the lowest score."""
        scores = [row.score for row in self.rows]
        return max(scores) - min(scores)


@dataclass(frozen=True)
class Board:
    """Content of a site.

    Attributes:
        names: digest of a model -> its name.
        compared: result of `comparison` for a row of kind `source` (accuracy on source classes) ->
            subsets that the row's recipe compared, sorted.
        sources: recipe -> subset -> the subset's row of kind `source` with the smallest eps and
            seed.
    """

    rows: tuple[BoardRow, ...]
    recipes: Mapping[str, Any]
    compared: Mapping[tuple[object, ...], tuple[str, ...]]
    sources: Mapping[str, Mapping[str, BoardRow]]
    names: Mapping[str, str]
    rankings: tuple[Ranking, ...]
    targets: tuple[Target, ...]
    repetitions: tuple[Repetition, ...]


def comparison(row: BoardRow, *, any_seed: bool) -> tuple[object, ...]:
    """Return a key that is equal for rows of kind `source` that one recipe compared.

    Args:
        row: a row of kind `source`.
        any_seed: rows with different seeds have equal keys.
    """
    seed = None if any_seed else row.seed
    return row.kind, row.recipe, row.variant, row.arch, row.eps, seed


def _compared(rows: Iterable[BoardRow]) -> dict[tuple[object, ...], tuple[str, ...]]:
    found: dict[tuple[object, ...], set[str]] = {}
    for row in rows:
        if row.kind == "source" and row.subset:
            for any_seed in (False, True):
                found.setdefault(comparison(row, any_seed=any_seed), set()).add(row.subset)
    return {key: tuple(sorted(subsets)) for key, subsets in found.items()}


def _sources(rows: Iterable[BoardRow]) -> dict[str, dict[str, BoardRow]]:
    found: dict[str, dict[str, BoardRow]] = {}
    source_rows = (row for row in rows if row.kind == "source" and row.subset)
    for row in sorted(source_rows, key=lambda row: (row.eps, row.seed)):
        found.setdefault(row.recipe, {}).setdefault(row.subset, row)
    return found


def board(merged: Merged) -> Board:
    """Compute the content of a site from merged rows."""
    rows = merged.rows
    names = _model_names(rows)
    pages = _target_pages(rows)
    groups = dict(sorted(_grouped(rows, _ranking_of).items(), key=_place_of_ranking))
    titles = _unique({key: _title(group[0]) for key, group in groups.items()}, lambda key: key[1])
    rankings = tuple(
        _ranking(
            _slug(group[0].method if key[0] == "transfer" else "source", key),
            titles[key],
            group,
            names,
            pages,
        )
        for key, group in groups.items()
    )
    runs = _grouped(rows, lambda row: row.run)
    return Board(
        rows,
        merged.recipes,
        _compared(rows),
        _sources(rows),
        names,
        rankings,
        tuple(_targets(rows, rankings, pages)),
        tuple(Repetition(tuple(group)) for group in runs.values() if len(group) > 1),
    )


def seed_means(rows: Iterable[BoardRow]) -> SeedMean:
    """Average the scores of a model on one task over pretrained models."""
    return seed_mean(_by_unit(rows).values())


def _by_unit(rows: Iterable[BoardRow]) -> dict[int, float]:
    """Return `unit` of a pretrained model -> its mean score; repetitions of a run count once."""
    by_seed: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        by_seed.setdefault(row.unit, {}).setdefault(row.seed, []).append(row.score)
    return {
        unit: statistics.fmean(map(statistics.fmean, seeds.values()))
        for unit, seeds in sorted(by_seed.items())
    }


def _ranking(
    name: str,
    title: str,
    rows: Sequence[BoardRow],
    names: Mapping[str, str],
    pages: Mapping[tuple[str, str, str], str],
) -> Ranking:
    kind = rows[0].kind
    of_task = _grouped(rows, lambda row: row.task_digest)
    labels = {
        task: group[0].target if kind == "transfer" else group[0].method
        for task, group in of_task.items()
    }
    unique = _unique(labels, lambda task: task)
    tasks = tuple(
        Task(
            task,
            unique[task],
            group[0].metric,
            group[0].num_test_images,
            pages[_target_of(group[0])],
        )
        for task, group in of_task.items()
    )
    of_model = _grouped(rows, lambda row: row.model_digest)
    by_task = {
        model: _grouped(group, lambda row: row.task_digest) for model, group in of_model.items()
    }
    common = _common_tasks(tasks, by_task) if kind == "transfer" else ()
    unranked = [
        Standing(
            model,
            names[model],
            None,
            _mean([by_task[model].get(task.digest, []) for task in common]),
            {task: seed_means(group) for task, group in by_task[model].items()},
            tuple(group),
        )
        for model, group in of_model.items()
    ]
    return Ranking(
        name,
        title,
        kind,
        rows[0].protocol_digest,
        tasks,
        common,
        tuple(_ranked(unranked, tasks)),
    )


def _common_tasks(
    tasks: Sequence[Task], by_task: Mapping[str, Mapping[str, Sequence[BoardRow]]]
) -> tuple[Task, ...]:
    """Return the tasks of the largest part of the ranking in which every model has every task."""
    measured = np.array([[task.digest in groups for task in tasks] for groups in by_task.values()])
    return tuple(tasks[column] for column in largest_block(measured)[1])


def _mean(groups: Sequence[Sequence[BoardRow]]) -> SeedMean | None:
    """Average over targets within each pretrained model, then over these models.

    Models that lack a target are left out; None if no model is left, or if there are no targets.
    """
    if not groups or not all(groups):
        return None
    by_unit = [_by_unit(group) for group in groups]
    units = sorted(set.intersection(*(set(scores) for scores in by_unit)))
    means = [statistics.fmean(scores[unit] for scores in by_unit) for unit in units]
    return seed_mean(means) if means else None


def _ranked(standings: Sequence[Standing], tasks: Sequence[Task]) -> Iterable[Standing]:
    """Sort by the mean, or by the first task if there is no mean; equal scores share a rank."""
    has_mean = any(standing.mean for standing in standings)
    means = [one.mean if has_mean else one.scores.get(tasks[0].digest) for one in standings]
    values = [None if mean is None else mean.mean for mean in means]
    known = sorted((value for value in values if value is not None), reverse=True)
    order = sorted(
        range(len(standings)),
        key=lambda at: (
            values[at] is None,
            -(values[at] or 0.0),
            standings[at].name,
            standings[at].model_digest,
        ),
    )
    for at in order:
        value = values[at]
        yield replace(standings[at], rank=None if value is None else 1 + known.index(value))


def _ranking_of(row: BoardRow) -> tuple[str, str]:
    """Return the key of a row's ranking: transfers with equal settings, or source accuracies."""
    return (row.kind, row.protocol_digest if row.kind == "transfer" else row.target)


def _place_of_ranking(item: tuple[tuple[str, str], list[BoardRow]]) -> tuple[bool, int, str]:
    """Sort key of rankings: transfers first, then the ranking with the most rows."""
    (kind, name), group = item
    return kind == "source", -len(group), name


def _title(row: BoardRow) -> str:
    if row.kind == "source":
        return f"Accuracy on the source classes of {row.target}"
    sizes = [f"{row.per_class:,} images per class"] if row.per_class else []
    sizes += [f"{row.steps:,} steps"] if row.steps else []
    return ", ".join([f"Transfer: {row.method}", *sizes])


def _target_of(row: BoardRow) -> tuple[str, str, str]:
    """Identify a target by its test images; by its name if their digest is unknown."""
    return row.kind, row.test_sha256, "" if row.test_sha256 else row.target


def _target_pages(rows: Iterable[BoardRow]) -> dict[tuple[str, str, str], str]:
    """Return target -> name of its page: the plain part of its label, and a digest."""
    pages = {}
    for row in rows:
        if (target := _target_of(row)) not in pages:
            pages[target] = _slug(row.target, target)
    return pages


def _slug(label: str, identity: tuple[str, ...]) -> str:
    """Return the name of a page or an id: the plain part of a label, and a digest of `identity`."""
    kept = (c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in label)
    plain = "".join(kept).strip("-_")[:60].rstrip("-_")
    return "-".join(filter(None, [plain, digest(list(identity))[:SHORT]]))


def _targets(
    rows: Sequence[BoardRow],
    rankings: Sequence[Ranking],
    pages: Mapping[tuple[str, str, str], str],
) -> Iterable[Target]:
    for target, group in _grouped(rows, _target_of).items():
        page = pages[target]
        parts = [
            (ranking, tuple(task for task in ranking.tasks if task.target_page == page))
            for ranking in rankings
        ]
        name = group[0].target
        yield Target(
            page,
            f"{name} (source classes)" if group[0].kind == "source" else name,
            group[0].kind,
            target[1],
            tuple(group),
            tuple((ranking, tasks) for ranking, tasks in parts if tasks),
        )


def _model_names(rows: Sequence[BoardRow]) -> dict[str, str]:
    """Name loaded models by their label, and others by subset, variant and axes that differ."""
    firsts: dict[str, BoardRow] = {}
    for row in rows:
        firsts.setdefault(row.model_digest, row)
    trained = [row for row in firsts.values() if row.subset and not row.model]
    varies = {
        part: len({getattr(row, part) for row in trained}) > 1
        for part in ("source", "variant", "eps", "arch")
    }
    labels = {}
    for model, row in firsts.items():
        parts = [row.subset or "random weights"]
        parts += [row.variant] if row.variant else []
        parts += [f"eps {format_eps(row.eps)}"] if varies["eps"] and row.subset else []
        parts += [row.arch] if row.arch and (varies["arch"] or not row.subset) else []
        parts += [row.source] if varies["source"] and row.source else []
        labels[model] = row.model or ", ".join(parts)
    return _unique(labels, lambda model: model)


def _unique(labels: Mapping[Any, str], digest_of: Callable[[Any], str]) -> dict[Any, str]:
    """Append part of the digest to labels that are not unique."""
    counts = Counter(labels.values())
    return {
        key: label if counts[label] == 1 else f"{label} ({digest_of(key)[:SHORT]})"
        for key, label in labels.items()
    }


def _grouped(rows: Iterable[BoardRow], key: Callable[[BoardRow], Any]) -> dict[Any, list[BoardRow]]:
    """Group rows by a key; groups and rows keep their order."""
    groups: dict[Any, list[BoardRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
