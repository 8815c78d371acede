"""Score how well a model suits a target, from its features for the target's training images."""

from harness.runner.context import Outcome, StageContext, Stopped
from harness.stages.score.record import ScoreMetrics, ScoreTiming
from harness.transfer import score
from harness.transfer.features import Features, file_of


def run(context: StageContext) -> Outcome:
    """Compute the scores of the config; scores that cannot be computed are listed in `failed`.

    Raises:
        Stopped: a stop was requested before a score. The next run starts from the beginning.
    """
    features = Features.load(file_of(context.need_folders["features"], "train"))
    names = context.config["scores"]

    def before(number: int, name: str) -> None:
        if context.stop_requested():
            raise Stopped
        context.progress(done=number, total=len(names), note=name)

    results = score.compute(
        names,
        features=features.features,
        probs=features.probs,
        labels=features.labels,
        device=context.device,
        before=before,
    )
    metrics: ScoreMetrics = {
        "scores": results.scores,
        "details": results.details,
        "failed": results.failed,
        "split": "train",
        "num_duplicates": results.num_duplicates,
        "num_images": len(features.labels),
        "num_features": features.features.shape[1],
        "num_source_classes": None if features.probs is None else features.probs.shape[1],
        "num_classes": len(context.needs["features"].metrics["classes"]),
    }
    timing: ScoreTiming = {"seconds": results.seconds}
    return Outcome(metrics, timing)
