"""Draws up the list of the best models by one score, over all targets: of those that could be scored."""

from harness.runner import shortlist
from harness.runner.context import Outcome, StageContext
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    """Metrics: `chosen`, the best first; the whole `ranking`, with ranks and scores; `left_out`, model -> why; `num_missing`,
    scores that were not there because their stages had failed. Targets that the score suits for no model do not count."""
    config = context.config
    by = config["by"]
    values: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    num_missing = 0
    for role, (model, target) in config["scores"].items():
        if role not in context.needs:
            num_missing += 1
            left_out.setdefault(model, f"it, its features or its scores failed on {target}")
        elif by in (scores := context.needs[role].metrics["scores"]):
            values.setdefault(model, {})[target] = scores[by]
    targets = {target for scores in values.values() for target in scores}
    for role, (model, target) in config["scores"].items():
        if target in targets and target not in values.get(model, {}):
            why = (
                context.needs[role].metrics["failed"].get(by, "it was not computed")
                if role in context.needs
                else ""
            )
            left_out.setdefault(model, f"{by} on {target}: {why}")
    ranking = shortlist.rank(
        {model: scores for model, scores in values.items() if model not in left_out}
    )
    if not ranking:
        first = next(iter(left_out.items()), ("", "none was scored"))
        raise UserError(
            f"None of {len(left_out)} models has a score {by} on all targets. {first[0]}: {first[1]}.",
            "harness status says why their stages failed.",
        )
    return Outcome(
        {
            "by": by,
            "best": config["best"],
            "chosen": [row["model"] for row in ranking[: config["best"]]],
            "ranking": ranking,
            "left_out": left_out,
            "num_missing": num_missing,
        }
    )
