"""Ranks the source's classes, the hardest first, by the reference model's accuracy on each."""

from harness import model as models
from harness.stage import Outcome, StageContext
from harness.stages.pretrain import MODEL_FILE
from harness.train.plans import eval_plan, held_out, split_path
from harness.train.ranking import rank_classes


def run(context: StageContext) -> Outcome:
    """Metrics: `classes`, hardest first; `accuracy` and `num_images` of each; the split, and how ties were broken."""
    config = context.config
    model, _ = models.load(context.need_folders["model"] / MODEL_FILE)
    plan = eval_plan(split_path(context, "data", config["split"]), config["batch_size"], config["resolution"],
                     config["eval_crop"], context)
    if "held_out" in config:
        plan = held_out(plan, config["held_out"], only=True)
    scores = rank_classes(model, plan, context.needs["data"].metrics["classes"], source=f"stage {context.folder.name}")
    return Outcome({"classes": list(scores.ranking.classes), "accuracy": dict(scores.ranking.accuracy),
                    "num_images": scores.num_images, "split": "held_out" if "held_out" in config else config["split"],
                    "tie_break": scores.ranking.tie_break})
