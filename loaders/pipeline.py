"""Refuses an FFCV pipeline in a wrong order before FFCV sees it.

FFCV does not check. An operation on arrays behind one on tensors sends its `Graph.group_operations` into an endless
loop (libffcv/ffcv#396); other wrong orders kill its thread at the first batch, which the consumer then awaits for ever.
"""

from collections.abc import Sequence
from typing import Any

import torch

from loaders.ffcv_parts import Operation, PipelineSpec, fields, transforms
from writers.errors import UserError

_DECODERS = (
    fields.rgb_image.SimpleRGBImageDecoder,
    fields.basics.BasicDecoder,
    fields.bytes.BytesDecoder,
    fields.ndarray.NDArrayDecoder,
)
_ON_TENSORS = (
    transforms.ToDevice,
    transforms.ToTorchImage,
    transforms.Convert,
    transforms.View,
    transforms.Squeeze,
    transforms.MixupToOneHot,
    transforms.ModuleWrapper,
    torch.nn.Module,
)


class Decoder(Operation):
    """A first operation of a pipeline that is not FFCV's own: it turns positions of samples into an array."""


def make_pipeline(field: str, operations: Sequence[Any]) -> PipelineSpec:
    """FFCV's form of a decoder and the operations behind it. Raises UserError as `check_pipeline` does."""
    check_pipeline(field, operations)
    return PipelineSpec(field, decoder=operations[0], transforms=list(operations[1:]))


def check_pipeline(field: str, operations: Sequence[Any]) -> None:
    """Raise UserError, naming the operation and its place, unless the order is right.

    Right is: one decoder, operations on arrays, ToTensor, operations on tensors; NormalizeImage before ToTensor, or
    behind the ToDevice that moves to a GPU; ToTorchImage once.
    """

    def refuse(place: int, what: str, cure: str) -> UserError:
        return UserError(
            f"Pipeline '{field}': {_name(operations[place])}, operation {place + 1}, {what}.", cure
        )

    if not operations or not _is_decoder(operations[0]):
        raise UserError(
            f"Pipeline '{field}' does not begin with a decoder.",
            "A decoder turns samples into arrays.",
        )
    is_tensor = on_gpu = is_torch_image = False
    for place, operation in enumerate(operations[1:], start=1):
        if _is_decoder(operation):
            raise refuse(
                place, "is a second decoder", "A pipeline has one decoder, in the first place."
            )
        if isinstance(operation, transforms.ToTensor):
            if is_tensor:
                raise refuse(place, "comes when there is a tensor already", "Leave one ToTensor.")
            is_tensor = True
        elif isinstance(operation, _ON_TENSORS):
            if not is_tensor:
                raise refuse(
                    place, "works on tensors, and there is none yet", "Put ToTensor before it."
                )
            if isinstance(operation, transforms.ToTorchImage):
                if is_torch_image:
                    raise refuse(place, "comes a second time", "Leave one ToTorchImage.")
                is_torch_image = True
            if isinstance(operation, transforms.ToDevice):
                on_gpu = torch.device(operation.device).type == "cuda"
        elif is_tensor and not (on_gpu and isinstance(operation, transforms.NormalizeImage)):
            raise refuse(
                place,
                "works on arrays, behind the ToTensor that ends them",
                "Put it before ToTensor.",
            )
    if not is_tensor:
        raise UserError(f"Pipeline '{field}' does not end in a tensor.", "Add ToTensor.")


def _is_decoder(operation: Any) -> bool:
    return isinstance(operation, (Decoder, *_DECODERS))


def _name(operation: Any) -> str:
    return type(operation).__name__
