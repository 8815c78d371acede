"""Orders of operations on which FFCV hangs or dies are refused; good ones pass."""

import pytest
import torch

from loaders.ffcv_parts import fields, transforms
from loaders.pipeline import check_pipeline, make_pipeline
from writers.errors import UserError

decode = fields.rgb_image.SimpleRGBImageDecoder
to_tensor, to_image = transforms.ToTensor, transforms.ToTorchImage
flip = transforms.RandomHorizontalFlip


def to_gpu() -> object:
    return transforms.ToDevice(torch.device("cuda:0"))


def to_cpu() -> object:
    return transforms.ToDevice(torch.device("cpu"))


def normalize() -> object:
    operation = transforms.NormalizeImage.__new__(
        transforms.NormalizeImage
    )  # its constructor may want a GPU
    return operation


@pytest.mark.parametrize(
    "operations",
    [
        [decode, to_tensor],
        [decode, flip, to_tensor, to_gpu, to_image],
        [decode, flip, normalize, to_tensor, to_image],
        [decode, to_tensor, to_gpu, to_image, normalize],
        [decode, to_tensor, to_image, torch.nn.Identity],
        [fields.basics.IntDecoder, to_tensor, transforms.Squeeze, to_cpu],
    ],
)
def test_good_orders_pass(operations):
    operations = [operation() for operation in operations]
    spec = make_pipeline("image", operations)
    assert [spec.decoder, *spec.transforms] == operations


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([], "does not begin with a decoder"),
        ([to_tensor], "does not begin with a decoder"),
        ([decode], "does not end in a tensor"),
        ([decode, flip], "does not end in a tensor"),
        (
            [decode, to_tensor, flip],
            "RandomHorizontalFlip, operation 3, works on arrays",
        ),  # libffcv/ffcv#396
        ([decode, to_tensor, to_image, normalize], "NormalizeImage, operation 4, works on arrays"),
        (
            [decode, to_tensor, to_cpu, to_image, normalize],
            "NormalizeImage, operation 5, works on arrays",
        ),
        ([decode, to_gpu, to_tensor], "ToDevice, operation 2, works on tensors"),
        ([decode, to_image, to_tensor], "ToTorchImage, operation 2, works on tensors"),
        ([decode, torch.nn.Identity, to_tensor], "Identity, operation 2, works on tensors"),
        (
            [decode, to_tensor, to_tensor],
            "ToTensor, operation 3, comes when there is a tensor already",
        ),
        ([decode, to_tensor, to_image, to_image], "ToTorchImage, operation 4, comes a second time"),
        ([decode, decode, to_tensor], "operation 2, is a second decoder"),
    ],
)
def test_bad_orders_are_refused(operations, message):
    with pytest.raises(UserError, match=message):
        check_pipeline("image", [operation() for operation in operations])
