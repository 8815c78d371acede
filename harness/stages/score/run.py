"""Scores how well one model suits one target, from its features of the target's training images."""

from harness.runner.context import Outcome, StageContext, Stopped
from harness.transfer import score
from harness.transfer.features import Features, file_of


def run(context: StageContext) -> Outcome:
    """Metrics: `scores`, by name; `details` of those that tell more; `failed`, name -> why, for those that cannot be; how many
    images, features and classes; `num_duplicates`, images whose features equal an earlier one's. Timing: seconds of each."""
    seen = Features.load(file_of(context.need_folders["features"], "train"))
    asked = context.config["scores"]

    def before(number: int, name: str) -> None:
        if context.stop_requested():
            raise Stopped
        context.progress(done=number, total=len(asked), note=name)

    found = score.compute(
        asked,
        features=seen.features,
        probs=seen.probs,
        labels=seen.labels,
        device=context.device,
        before=before,
    )
    return Outcome(
        {
            "scores": found.scores,
            "details": found.details,
            "failed": found.failed,
            "split": "train",
            "num_duplicates": found.num_duplicates,
            "num_images": len(seen.labels),
            "num_features": seen.features.shape[1],
            "num_source_classes": None if seen.probs is None else seen.probs.shape[1],
            "num_classes": len(context.needs["features"].metrics["classes"]),
        },
        {"seconds": found.seconds},
    )
