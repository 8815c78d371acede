"""Kinds of training of pretrained models. Imports no torch."""

import re
from typing import Literal, get_args

TrainingKind = Literal["supervised", "semi-supervised", "self-supervised", "language-supervised"]
TRAINING_KINDS: tuple[TrainingKind, ...] = get_args(TrainingKind)

# Word in a name of timm's weights -> kind of training. If weights were pretrained without labels
# and then fine-tuned with labels, they keep the kind of their pretraining.
_WORDS: dict[str, TrainingKind] = {
    "ssl": "semi-supervised",  # Yalniz et al. 2019
    "swsl": "semi-supervised",
    "ns": "semi-supervised",  # noisy student
    "ssld": "semi-supervised",  # Cui et al. 2021
    "dino": "self-supervised",
    "dinov2": "self-supervised",
    "dinov3": "self-supervised",
    "mae": "self-supervised",
    "fcmae": "self-supervised",
    "mim": "self-supervised",
    "beit": "self-supervised",
    "beitv2": "self-supervised",
    "beit3": "self-supervised",  # masked images and texts
    "eva": "self-supervised",  # masked images
    "ijepa": "self-supervised",
    "seer": "self-supervised",
    "mocov3": "self-supervised",
    "clip": "language-supervised",
    "mclip": "language-supervised",
    "mclip2": "language-supervised",
    "openai": "language-supervised",
    "laion2b": "language-supervised",
    "laion400m": "language-supervised",
    "datacomp": "language-supervised",
    "dfn2b": "language-supervised",
    "dfn5b": "language-supervised",
    "metaclip": "language-supervised",
    "webli": "language-supervised",
    "siglip": "language-supervised",
}


def kind_of_weights(name: str, *, has_head: bool) -> TrainingKind | None:
    """Return the kind of training of published weights, for timm by the last known word in a name.

    timm's names end with a tag that describes the weights. Words of the architecture before it may
    be misleading: `eva` means training on masked images, but `eva_giant_patch14_224.clip_ft_in1k`
    was trained on texts. torchvision's names have no known words.

    Args:
        name: name as in a recipe: `torchvision/resnet50`, `timm/vit_small_patch16_224.dino`.
        has_head: True if the weights include a classifier.

    Returns:
        Without a known word, "supervised" if the weights include a classifier, and None otherwise.
    """
    library, _, rest = name.partition("/")
    words = re.split(r"[._-]", rest) if library == "timm" else []
    default: TrainingKind | None = "supervised" if has_head else None
    return next((_WORDS[word] for word in reversed(words) if word in _WORDS), default)
