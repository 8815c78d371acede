"""List the pairs of a recipe's targets with methods and scores that do not fit, and why.

Detection works on targets with boxes of objects. Other methods, and scores, work on labels of whole
images. Imports no torch.
"""

from dataclasses import dataclass

from harness.config.recipe import Recipe
from writers.text_names import counted, preview

NEEDS_BOXES = "the method needs boxes of objects, which the target lacks"
NEEDS_LABELS = "the method needs labels of whole images, and the target has boxes"
SCORES_NEED_LABELS = "scores need labels of whole images, and the target has boxes"


@dataclass(frozen=True)
class LeftOut:
    """Pairs that are left out for one reason.

    Attributes:
        reason: the reason, which is the same for all pairs.
        pairs: each is the label of a method, or "scores", and the label of a target.
    """

    reason: str
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Describe the pairs in one line, with their number and the first ones."""
        shown = preview([f"{what} on {target}" for what, target in self.pairs])
        return f"left out: {counted(len(self.pairs), 'pair')}, because {self.reason} ({shown})"


def left_out(recipe: Recipe) -> list[LeftOut]:
    """List the pairs of a recipe that have no stage because they do not fit, by reason.

    Args:
        recipe: the recipe of a matrix, in which the metrics of `.beton` files are already set.
    """
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for label, settings in recipe.methods.items():
        reason = NEEDS_BOXES if settings.NEEDS_BOXES else NEEDS_LABELS
        for target in recipe.targets:
            if target.has_boxes != settings.NEEDS_BOXES:
                by_reason.setdefault(reason, []).append((label, target.label))
    for target in recipe.targets:
        if recipe.scores and target.has_boxes:
            by_reason.setdefault(SCORES_NEED_LABELS, []).append(("scores", target.label))
    return [LeftOut(reason, tuple(pairs)) for reason, pairs in by_reason.items()]
