"""Load a pretrained model from published weights, from weights in a package, or from a file.

Nothing is downloaded. Weights of torchvision and timm are looked up in the recipe's `weights_dir`,
under their published file name or the model's name plus one of EXTENSIONS, and in the libraries'
caches.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config.model import ModelSettings
from harness.config.training_kind import TrainingKind, kind_of_weights
from harness.modeling import classifier, state_dicts, zoo
from harness.modeling.checkpoint_import import import_checkpoint
from harness.modeling.classifier import Classifier
from loaders.interpolation import interpolation_of_weights
from writers import names
from writers.errors import UserError
from writers.subset.spec import named

EXTENSIONS = (".safetensors", ".pth", ".pt", ".bin")
IMAGENET = "in1000"  # torchvision and timm have the same order of labels


@dataclass(frozen=True)
class PretrainedModel:
    """A classifier with pretrained weights, on the CPU."""

    model: Classifier
    about: dict[str, Any]  # metadata for `harness.modeling.classifier.save`
    imagenet_top1: float | None = None  # published accuracy, in [0, 1]; None means unknown
    imagenet_top5: float | None = None
    license: str | None = None  # published license of the weights
    training: TrainingKind | None = "supervised"  # kind of pretraining; None means unknown


def load_pretrained(settings: ModelSettings, weights_dir: Path) -> PretrainedModel:
    """Load the pretrained model that the settings name.

    Args:
        settings: name of published weights, or `checkpoint`, a file of weights.
        weights_dir: folder of files of weights; a relative path of `checkpoint` starts from it.

    Raises:
        UserError: the weights are missing (the message names the file and where to put it) or do
            not match.
    """
    if settings.checkpoint is not None:
        file = weights_dir / Path(settings.checkpoint).expanduser()
        model, about = import_checkpoint(
            file,
            settings.arch or settings.name,
            settings.classes,
            eps=settings.eps,
            mean=settings.mean,
            std=settings.std,
            average=settings.average,
            by_order=settings.by_order,
            part=settings.part,
        )
        training: TrainingKind | None = "supervised" if about["has_head"] else None
        if about["layout"]:
            training = "self-supervised"
        return PretrainedModel(model, about, settings.imagenet_top1, training=training)
    if "/" in settings.name:
        return _load_from_library(settings, weights_dir)
    module = names.find("harness.modeling.archs", settings.name, "model")
    if not hasattr(module, "published"):
        raise UserError(
            f"{settings.name} has no published weights.",
            "Name published ones, such as torchvision/resnet18@IMAGENET1K_V1, or give a model.pt "
            "or a checkpoint file.",
        )
    model, about = module.published()
    return PretrainedModel(model, about, settings.imagenet_top1)


def _load_from_library(settings: ModelSettings, weights_dir: Path) -> PretrainedModel:
    arch = settings.name
    published = zoo.pretrained_weights(arch)
    places = [
        weights_dir / name
        for name in (*published.file_names, *(arch.partition("/")[2] + end for end in EXTENSIONS))
    ]
    places += published.caches
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        from_where = f" They are published at {published.url}." if published.url else ""
        raise UserError(
            f"The weights of {arch} are not on this machine.{from_where}",
            f"Put {published.file_names[0]} into {weights_dir}.",
        )
    checkpoint = state_dicts.read(file)
    tensors = published.rename_keys(checkpoint.tensors)
    state_dicts.check_values(tensors)
    network = zoo.build(arch)
    has_head = published.num_classes > 0
    model = classifier.from_network(network, published.num_classes or 1)
    zoo.load_weights(arch, network, model.head if has_head else None, tensors)
    classes = named(IMAGENET).classes if published.num_classes == 1000 else None
    about = {
        "arch": arch,
        "channels": None,
        "classes": list(classes or map(str, range(published.num_classes))),
        "eps": 0.0,
        "resolution": network.resolution,
        "eval_crop": network.crop_fraction,
        "interpolation": interpolation_of_weights(network.interpolation),
        "has_head": has_head,
        "imported_from": file.name,
        "sha256": checkpoint.sha256,
    }
    top1 = published.imagenet_top1 if settings.imagenet_top1 is None else settings.imagenet_top1
    return PretrainedModel(
        model,
        about,
        top1,
        published.imagenet_top5,
        published.license,
        kind_of_weights(arch, has_head=has_head),
    )


def num_parameters(model: torch.nn.Module) -> int:
    """Return the number of values in all parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
