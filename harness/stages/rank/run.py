"""Rank the classes of the source dataset, hardest first, by models' accuracy on unseen images."""

from collections.abc import Iterator
from dataclasses import replace

from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.modeling.precision import choose
from harness.runner.context import Outcome, StageContext
from harness.stages._progress import PassProgress
from harness.stages.pretrain.spec import MODEL_FILE
from harness.stages.rank.record import RankMetrics
from harness.train.loader_plans import choose_interpolation, eval_plan, split_path
from harness.train.ranking import rank_classes, unseen_part
from loaders.plan import LoaderPlan


def run(context: StageContext) -> Outcome:
    """Evaluate the reference models (trained for this ranking) and sort the classes by accuracy.

    Raises:
        Stopped: a stop was requested. The next run starts from the beginning.
        UserError: a class has no image, or a model may have been trained on the images.
    """
    config = context.config
    precision = choose(config["precision"], context.device)
    scores = rank_classes(
        _models(context),
        context.needs["data"].metrics["classes"],
        source=f"stage {context.folder.name}",
        precision=precision,
        begin_pass=lambda loader: PassProgress(context, loader, config["split"]),
    )
    metrics: RankMetrics = {
        "classes": list(scores.ranking.classes),
        "accuracy": dict(scores.ranking.accuracy),
        "num_images": scores.num_images,
        "split": "held_out" if "held_out" in config else config["split"],
        "tie_break": scores.ranking.tie_break,
        "precision": precision,
    }
    return Outcome(metrics)


def _models(context: StageContext) -> Iterator[tuple[Classifier, LoaderPlan]]:
    """Load the reference models, each with the plan of the images that it evaluates.

    There is one model, or one per fold of train.
    """
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
            model, about = classifier.load(context.need_folders[role] / MODEL_FILE)
            interpolation = choose_interpolation(config.get("interpolation", "auto"), about)
            plan = replace(plan, interpolation=interpolation)
            part = config if "held_out" in config else about
            yield model, unseen_part(plan, part, split=config["split"], source=role)
