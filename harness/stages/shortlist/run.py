"""Choose the best models by one score over all targets; models without scores are left out."""

from harness.runner import shortlist
from harness.runner.context import Outcome, StageContext
from harness.stages.shortlist.record import ShortlistMetrics
from writers.errors import UserError
from writers.text_names import counted


def run(context: StageContext) -> Outcome:
    """Rank the models by the score.

    A target is ignored if no model has the score on it. A model is left out if it lacks the score
    on any other target, or if the stage that computes its scores failed on any target.

    Raises:
        UserError: no model can be ranked.
    """
    config = context.config
    by = config["by"]
    values: dict[str, dict[str, float]] = {}  # model -> target -> score
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
            reason = (
                context.needs[role].metrics["failed"].get(by, "it was not computed")
                if role in context.needs
                else ""
            )
            left_out.setdefault(model, f"{by} on {target}: {reason}")
    ranking = shortlist.rank(
        {model: scores for model, scores in values.items() if model not in left_out}
    )
    if not ranking:
        model, reason = next(iter(left_out.items()), ("", "no model was scored"))
        raise UserError(
            f"None of {counted(len(left_out), 'model')} has a score {by} on all targets. {model}: "
            f"{reason}.",
            "Run `harness status` to see why their stages failed.",
        )
    metrics: ShortlistMetrics = {
        "by": by,
        "best": config["best"],
        "chosen": [row["model"] for row in ranking[: config["best"]]],
        "ranking": ranking,
        "left_out": left_out,
        "num_missing": num_missing,
    }
    return Outcome(metrics)
