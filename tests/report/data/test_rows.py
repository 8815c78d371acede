"""Report rows: the model of a transfer on features, the axes of a grid, and learning curves."""

from harness.report.data.collection import Collection
from harness.report.data.grid_rows import GridRows
from harness.report.data.rows import transfer_rows
from harness.report.render.figures.grids import heat_panels
from harness.report.render.figures.sizes import curve_panels
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes

AXES = {"subset": "all", "arch": "resnet10", "eps": 0.0, "seed": 0}


def logreg_results(*, crops: tuple[float, ...] = (0.875, 1.0)) -> list[Result]:
    """Make results: a pretrained model, its features at each crop, logistic regression on each."""
    model = fakes.stage("pretrain", AXES, {"num_classes": 24, "num_train_images": 4000})
    features = {
        f"features_{crop:g}": fakes.stage(
            "features", {**AXES, "target": "pets", "crop": crop}, {}, {"model": model}
        )
        for crop in crops
    }
    entries = [
        {
            "lambda": penalty,
            "eval_crop": crop,
            "val": fakes.scores(0.6 + 0.01 * index, 500),
            "converged": index != 1,
            "largest_gradient": 1e-4 * (index + 1),
            "gap": 1e-6 * (index + 1),
        }
        for index, (penalty, crop) in enumerate(
            (penalty, crop) for penalty in (0.1, 1.0, 10.0) for crop in crops
        )
    ]
    result = fakes.transfer(None, {**AXES, "target": "pets", "method": "logreg"}, 0.7)
    chosen = {"lambda": 10.0, "eval_crop": crops[-1]}
    metrics = result.metrics | {"lr": None, "chosen": chosen, "grid": entries}
    needs = {role: stage.key for role, stage in features.items()}
    result = result.model_copy(update={"metrics": metrics, "needs": needs})
    return [model, *features.values(), result]


def collected(results: list[Result]) -> Collection:
    return Collection(fakes.recipe_for(("pets",), ("logreg",)), results)


def test_the_model_is_found_through_the_features_of_any_crop() -> None:
    (row,) = transfer_rows(collected(logreg_results()))
    assert (row.num_classes, row.num_source_images) == (24, 4000)


def test_diagnostics_of_a_fit_are_not_axes_of_the_grid() -> None:
    rows = GridRows(collected(logreg_results()))
    assert {tuple(row.setting) for row in rows} == {("lambda", "eval_crop")}
    assert [row.setting for row in rows if row.chosen] == [{"lambda": 10.0, "eval_crop": 1.0}]
    (panel,) = heat_panels(rows)
    assert panel.data.splitlines()[0] == "eval_crop,lambda,val_score"
    assert len(panel.data.splitlines()) == 1 + 3 * 2


def test_a_grid_of_one_axis_has_no_heat_map() -> None:
    assert heat_panels(GridRows(collected(logreg_results(crops=(0.875,))))) == []


def test_curves_are_separate_for_each_model_and_number_of_steps() -> None:
    results = []
    for subset, gain in (("all", 0.0), ("minus3", 0.2)):
        model = fakes.stage("pretrain", {**AXES, "subset": subset}, {"num_classes": 24})
        results.append(model)
        for per_class in (5, 50):
            for steps in (100, 1000):
                axes = {**AXES, "subset": subset, "target": "pets", "per_class": per_class}
                score = 0.3 + gain + 0.001 * per_class + 0.0001 * steps
                axes |= {"steps": steps, "method": "full"}
                results.append(fakes.transfer(model, axes, score))
    rows = transfer_rows(Collection(fakes.recipe_for(("pets",), ("full",)), results))
    first, second = curve_panels(rows, "per_class")
    assert [first.title, second.title] == [
        "pets, training steps: 100",
        "pets, training steps: 1,000",
    ]
    assert [line.split(",", 2)[:2] for line in first.data.splitlines()[1:]] == [
        ["full", "5"],
        ["full", "50"],
    ] * 2
    means = [float(line.split(",")[2]) for line in first.data.splitlines()[1:]]
    assert means == [row.score for row in rows if row.steps == 100]
    assert '"full, minus3"' in first.data
