"""Write a classifier in the formats of other programs: torchvision, timm, ONNX.

A network with an exported state dict takes normalized pixels, like the library's own weights; the
model card gives mean and standard deviation. An ONNX file contains the normalization and takes
pixels in [0, 1]. After writing, the logits of the written file are compared with the classifier's.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.config.zoo_names import available, split_weights, timm_library
from harness.modeling import weight_files, zoo
from harness.modeling.checkpoint_import import import_checkpoint
from harness.modeling.classifier import Classifier
from harness.system.atomic_write import write_atomically
from writers.errors import UserError

Format = Literal["torchvision", "timm", "onnx"]

OPSET = 18
# Metadata of a model that an exported state dict keeps, so that `read` returns it.
KEPT = ("arch", "classes", "eps", "resolution", "eval_crop", "interpolation", "has_head")
TOLERANCE = 1e-4  # allowed difference of logits; relative to the largest logit if that exceeds 1
NUM_TEST_IMAGES = 3


@dataclass(frozen=True)
class Exported:
    """Exported file.

    Attributes:
        file: path of the weights or the ONNX file.
        usage: lines of Python that load the file and compute logits of `images`, a float tensor
            [N, 3, R, R] in [0, 1].
        max_difference: largest absolute difference between the file's logits and the classifier's,
            on random images. None means that they were not compared: onnxruntime is not installed.
    """

    file: Path
    usage: str
    max_difference: float | None


@dataclass(frozen=True)
class _LibraryModel:
    """A network of torchvision or timm with its own head, and the call that creates it."""

    network: nn.Module
    head_name: str
    create: str


def export(
    model: Classifier, about: dict[str, Any], form: Format, folder: Path, resolution: int
) -> Exported:
    """Write the model into the folder, as `model.safetensors` or `model.onnx`.

    Args:
        model: a model on the CPU; it is set to evaluation mode.
        about: metadata that was saved with the model. A state dict stores the fields in KEPT.
        form: torchvision or timm writes a state dict, onnx writes a graph.
        folder: folder of the file; created if needed.
        resolution: side of the images for the comparison, in pixels.

    Raises:
        UserError: the library does not have the network, the network was changed (blur_pool) or
            has no linear head, a package is missing, or the logits differ by more than TOLERANCE.
    """
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    # Compare at the given resolution: in some networks, shapes of weights fit only this one.
    images = torch.rand(
        NUM_TEST_IMAGES, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)
    )
    if form == "onnx":
        return _to_onnx(model, folder / "model.onnx", images)
    return _to_state_dict(model, about, form, folder / "model.safetensors", images)


def read(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """Read a state dict that `export` wrote.

    Returns:
        The model, and the metadata that was saved with it.

    Raises:
        UserError: the file is damaged, or another program wrote it.
    """
    texts = weight_files.metadata(path)
    try:
        saved = json.loads(texts["about"])
        about = {name: saved[name] for name in ("num_classes", *KEPT)}
        arch, num_classes = str(about["arch"]), int(about["num_classes"])
        mean, std = (json.loads(texts[name]) for name in ("mean", "std"))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not state its network: harness export did not write it.",
            "Convert it to a model.pt: harness import-checkpoint.",
        ) from error
    names = [str(number) for number in range(num_classes)]
    model, imported = import_checkpoint(path, arch, names, mean=mean, std=std)
    return model, imported | {name: about[name] for name in KEPT if about[name] is not None}


def _to_state_dict(
    model: Classifier, about: Mapping[str, Any], library: str, file: Path, images: Tensor
) -> Exported:
    from safetensors.torch import load_file, save

    arch = str(about["arch"])
    theirs = _library_model(arch, library, model.head.out_features)
    weights = {
        name: tensor.detach().contiguous().clone()
        for name, tensor in model.backbone.state_dict().items()
    }
    expected = theirs.network.state_dict()
    for name, tensor in model.head.state_dict().items():
        target = f"{theirs.head_name}.{name}"
        if target in expected:  # if their head is a 1x1 convolution, reshape our linear weights
            tensor = tensor.reshape(expected[target].shape)
        weights[target] = tensor.detach().contiguous().clone()
    try:
        zoo.load_strictly(f"{library}/{arch.rpartition('/')[2]}", theirs.network, weights)
    except UserError as error:
        raise UserError(
            f"{arch} was changed, so it is not a network of {library}: {error.message}",
            "Use --format onnx, which takes every network.",
        ) from error
    mean, std = _normalization(model)
    # Do not use save_file: only the owner may read its files.
    kept = {name: about.get(name) for name in KEPT} | {"num_classes": model.head.out_features}
    texts = {"arch": arch, "mean": str(mean), "std": str(std), "about": json.dumps(kept)}
    write_atomically(file, save(weights, texts))
    theirs.network.load_state_dict(load_file(file))
    with torch.no_grad():
        logits = theirs.network.eval()((images - model.mean) / model.std)
    difference = _compare(model, images, logits, file)
    module = "torchvision" if library == "torchvision" else "timm"
    usage = (
        f"import {module}\n"
        "from safetensors.torch import load_file\n"
        "from torchvision.transforms.v2.functional import normalize\n\n"
        f"model = {theirs.create}\n"
        f'model.load_state_dict(load_file("{file.name}"))\n\n'
        f"logits = model.eval()(normalize(images, {mean}, {std}))\n"
    )
    return Exported(file, usage, difference)


def _library_model(arch: str, library: str, num_classes: int) -> _LibraryModel:
    name, _ = split_weights(arch.rpartition("/")[2])
    if "/" in arch and not arch.startswith(f"{library}/") and name not in _both():
        raise UserError(
            f"{arch} cannot be exported to {library}.",
            f"Use --format {arch.partition('/')[0]} or onnx.",
        )
    known = name in available("torchvision") if library == "torchvision" else _is_in_timm(name)
    if not known:
        raise UserError(
            f"{library} has no network {name}.", "Use --format onnx, which takes every network."
        )
    network = zoo.build(f"{library}/{name}")
    if not network.head_name:
        raise UserError(
            f"{library}'s {name} has no linear head that could hold the model's.",
            "Use --format onnx, which takes every network.",
        )
    options: dict[str, Any] = {"num_classes": num_classes}
    create: Callable[..., nn.Module]
    if library == "torchvision":
        from torchvision import models

        if name in zoo.WITH_AUXILIARY:
            options |= {"init_weights": True, "aux_logits": False, "transform_input": True}
        if name.startswith("vit_"):
            options["image_size"] = network.resolution
        create, called = getattr(models, name), f"torchvision.models.{name}("
    else:
        timm = timm_library()
        create, called = (lambda **more: timm.create_model(name, **more)), "timm.create_model("
        called += f'"{name}", '
    text = ", ".join(f"{key}={value}" for key, value in options.items())
    with torch.random.fork_rng(devices=[]):
        return _LibraryModel(create(**options), network.head_name, f"{called}{text})")


def _both() -> tuple[str, ...]:
    """List ResNets whose tensors have the same names in torchvision and timm."""
    return ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def _is_in_timm(name: str) -> bool:
    return bool(timm_library().is_model(name))


def _normalization(model: Classifier) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, rounded to float32's precision."""
    return tuple(  # type: ignore[return-value]
        [float(f"{value:.7g}") for value in buffer.flatten().tolist()]
        for buffer in (model.mean, model.std)
    )


def _to_onnx(model: Classifier, file: Path, images: Tensor) -> Exported:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format onnx needs the package {package}.", "pip install 'harness[onnx]'"
            )
    batch = torch.export.Dim("batch", min=1)
    contiguous = model.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        program = torch.onnx.export(
            contiguous,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(file), external_data=False)
    difference = None
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        # Use another batch size than the traced one, to check that any size works.
        parts = [
            torch.from_numpy(session.run(None, {"images": part.numpy()})[0])
            for part in (images[:1], images[1:])
        ]
        difference = _compare(model, images, torch.cat(parts), file)
    usage = (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{file.name}")\n'
        '[logits] = session.run(None, {"images": images.numpy()})\n'
    )
    return Exported(file, usage, difference)


def _compare(model: Classifier, images: Tensor, logits: Tensor, file: Path) -> float:
    """Return the largest absolute difference between `logits` and the model's logits.

    Raises:
        UserError: the difference exceeds TOLERANCE. The file is removed.
    """
    with torch.no_grad():
        expected = model(images)
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        file.unlink()
        raise UserError(
            f"The exported model's logits differ by {difference:.2g} from the model's.",
            "Use --format onnx, which takes every network."
            if file.suffix != ".onnx"
            else "Use --format torchvision or timm.",
        )
    return difference
