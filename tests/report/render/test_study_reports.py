"""Complete reports of synthetic studies, and the numbers in their figures."""

from pathlib import Path

import numpy as np
import pytest

from harness.report.render.page import write
from tests.helpers import study_fakes as fakes


def test_a_recipe_with_loaded_models_only_has_a_report(tmp_path: Path) -> None:
    recipe = fakes.recipe_for(fakes.TARGETS, ("fixed", "full"))
    path = write(
        recipe,
        fakes.model_zoo(),
        ["transfer/pets/full/x"],
        tmp_path,
        ("html", "md", "csv"),
        failed={"transfer/pets/full/x": "UserError: net99 has no linear layer."},
    )
    text = path.read_text()
    assert "failed:</b> UserError: net99 has no linear layer." in text
    for name in ("source-0", "elo-0", "predictors-0"):
        assert f'id="{name}-' in text and f'download="{name}.csv"' in text
        svg = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert svg.startswith("<?xml")
        assert "var(" not in svg
        assert (tmp_path / "figures" / f"{name}.csv").stat().st_size > 40
    assert text.count("Among 4 cheap predictors") == 1  # only among the opening sentences
    assert "## Models compared" in (tmp_path / "report.md").read_text()


def test_curves_and_heat_maps_have_the_measured_values(tmp_path: Path) -> None:
    results = fakes.curves()
    methods = dict.fromkeys(
        result.axes["method"] for result in results if result.kind == "transfer"
    )
    write(fakes.recipe_for(fakes.TARGETS[:4], methods), results, [], tmp_path)
    lines = (tmp_path / "figures" / "curve-per_class-0.csv").read_text().splitlines()
    assert lines[0] == "method,per_class,mean,sd,num_seeds,curve" and len(lines) == 1 + 2 * 4
    scores = [
        result.metrics["test"]["top1"]
        for result in results
        if result.axes.get("per_class") == 5
        and (result.axes["target"], result.axes["method"]) == ("aircraft", "full_per_class")
    ]
    method, size, mean, *_ = lines[1].split(",")
    assert (method, size) == ("full_per_class", "5")
    assert float(mean) == pytest.approx(np.mean(scores))
    write(
        fakes.recipe_for(fakes.TARGETS[:4], ("default", "l2sp")),
        fakes.grids(),
        [],
        tmp_path / "grids",
    )
    heat = (tmp_path / "grids" / "figures" / "grid-0.csv").read_text().splitlines()
    assert heat[0] == "lr,reinit_last,val_score" and len(heat) == 1 + 3 * 4
    best = max(heat[1:], key=lambda line: float(line.split(",")[2]))
    assert best.split(",")[1] == "1"


def test_medians_of_three_seeds_are_those_of_the_results(tmp_path: Path) -> None:
    results = fakes.model_zoo(num_models=4, seeds=(0, 1, 2), noise=0.05)
    write(fakes.recipe_for(fakes.TARGETS, ("fixed", "full")), results, [], tmp_path)
    lines = (tmp_path / "medians.csv").read_text().splitlines()
    assert lines[0] == "method,model,num_targets,num_seeds,score" and len(lines) == 1 + 2 * 4
    for line in lines[1:]:
        method, model, num_targets, num_seeds, score = line.split(",")
        by_target: dict[str, list[float]] = {}
        for result in results:
            axes = result.axes
            if result.kind == "transfer" and (axes["method"], axes["model"]) == (method, model):
                metrics = result.metrics
                by_target.setdefault(axes["target"], []).append(metrics["test"][metrics["metric"]])
        assert (int(num_targets), num_seeds) == (len(by_target), "3")
        assert all(len(scores) == 3 for scores in by_target.values())
        medians = [sorted(scores)[1] for scores in by_target.values()]
        assert float(score) == pytest.approx(np.mean(medians))
    html = (tmp_path / "index.html").read_text()
    assert "Medians over seeds" in html


def test_two_seeds_have_no_median(tmp_path: Path) -> None:
    results = fakes.model_zoo(num_models=4, seeds=(0, 1))
    write(fakes.recipe_for(fakes.TARGETS, ("fixed", "full")), results, [], tmp_path)
    assert len((tmp_path / "medians.csv").read_text().splitlines()) == 1


def test_marks_name_their_row_when_the_pointer_is_over_them(tmp_path: Path) -> None:
    write(
        fakes.recipe_for(fakes.TARGETS, ("full",)), fakes.model_zoo(methods=("full",)), [], tmp_path
    )
    table = (tmp_path / "figures" / "means.csv").read_text().splitlines()
    svg = (tmp_path / "figures" / "means.svg").read_text()
    assert svg.count("<title>") == len(table) - 1
    for line in table[1:]:
        model, method, mean = line.split(",")
        assert f"<title>{model}, {method}: {100 * float(mean):.1f} %</title></use>" in svg
