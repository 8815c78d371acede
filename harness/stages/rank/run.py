"""Ranks the source's classes, the hardest first, by the accuracy on each of models that have not seen the images."""

from collections.abc import Iterator

from harness.modeling import classifier as models
from harness.modeling.classifier import Classifier
from harness.modeling.precision import choose
from harness.runner.context import Outcome, StageContext
from harness.stages._progress import PassProgress
from harness.stages.pretrain.spec import MODEL_FILE
from harness.train.loader_plans import eval_plan, split_path
from harness.train.ranking import rank_classes, unseen_part
from loaders.plan import LoaderPlan


def run(context: StageContext) -> Outcome:
    """Metrics: `classes`, hardest first; `accuracy` and `num_images` of each; the split, how ties were broken, and the precision. Where it is
    asked to stop, it stops behind a batch, and begins anew when it is run again: no counts are kept."""
    config = context.config
    precision = choose(config["precision"], context.device)
    scores = rank_classes(
        _models(context),
        context.needs["data"].metrics["classes"],
        source=f"stage {context.folder.name}",
        precision=precision,
        begin_pass=lambda loader: PassProgress(context, loader, config["split"]),
    )
    return Outcome(
        {
            "classes": list(scores.ranking.classes),
            "accuracy": dict(scores.ranking.accuracy),
            "num_images": scores.num_images,
            "split": "held_out" if "held_out" in config else config["split"],
            "tie_break": scores.ranking.tie_break,
            "precision": precision,
        }
    )


def _models(context: StageContext) -> Iterator[tuple[Classifier, LoaderPlan]]:
    """One model, or for train one for each fold, with the images that it ranks by."""
    config = context.config
    plan = eval_plan(
        split_path(context, "data", config["split"]),
        config["batch_size"],
        config["resolution"],
        config["eval_crop"],
        context,
    )
    for role in sorted(context.needs):
        if role.startswith("model"):
            model, about = models.load(context.need_folders[role] / MODEL_FILE)
            yield (
                model,
                unseen_part(
                    plan,
                    config if "held_out" in config else about,
                    split=config["split"],
                    source=role,
                ),
            )
