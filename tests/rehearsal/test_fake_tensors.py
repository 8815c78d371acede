"""Training steps with torch's FakeTensorMode, whose tensors have a device "cuda" but no values.

They raise an error for two faults that other tests of the rehearsal cannot find: operands on two
devices, and a step that needs a value on the host.
"""

import threading
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from harness.config.attack import AttackSettings, EvaluationAttack
from harness.train.evaluation_attack import AttackPlan
from tests.rehearsal import product

WITHOUT_META = {  # operations in place without a kernel for fake tensors
    torch.ops.aten._fused_sgd_,
    torch.ops.aten._amp_foreach_non_finite_check_and_unscale_,
    torch.ops.aten._amp_update_scale_,
}
META = torch.device("meta")
STEPS = {
    "clean": {},
    "fp16": {"precision": "fp16"},
    "bf16, pgd l2": {"precision": "bf16", "attack": AttackSettings(steps=2, best_iterate=True)},
    "pgd linf": {"attack": AttackSettings(steps=2, norm="linf", random_start="ball")},
    "fast": {"attack": AttackSettings(method="fast")},
    "free": {"attack": AttackSettings(method="free", replays=2)},
    "parts, average": {"num_micro_batches": 2, "ema_decay": 0.9},
}


class FakeCuda(FakeTensorMode):
    """FakeTensorMode for a machine without a GPU: it makes no real tensor on the device."""

    in_setup = True  # values may be read on the host, and are 0: torch.optim.SGD looks at its rate
    avoid_device_init = True

    def dispatch(self, func, types, args=(), kwargs=None):
        if self.in_setup and func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else False
        if func is torch.ops.prim.device.default:  # `Tensor::device()` of C++
            found = args[0].fake_device
            return META if found.type == "cuda" and not getattr(_seen, "as_cuda", True) else found
        if func.overloadpacket in WITHOUT_META:
            operands = tree_leaves((args, kwargs))
            devices = {str(one.fake_device) for one in operands if isinstance(one, torch.Tensor)}
            if len(devices) > 1:
                raise RuntimeError(f"{func}: tensors on two different devices, {devices}")
            return args[0] if func._schema.returns else None
        with seen_as_cuda(True):
            return super().dispatch(func, types, args, kwargs)


class InAutograd(TorchFunctionMode):
    """Let autograd's C++ code, which runs before the mode's dispatch, see the device "meta".

    For a device "cuda", autograd's engine would need streams of a driver, which does not exist.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("__get__", "device"):
            return func(*args, **(kwargs or {}))
        with seen_as_cuda(False):
            return func(*args, **(kwargs or {}))


_seen = threading.local()


@contextmanager
def seen_as_cuda(value: bool):
    before, _seen.as_cuda = getattr(_seen, "as_cuda", True), value
    try:
        yield
    finally:
        _seen.as_cuda = before


def put_on_cuda(model: nn.Module, mode: FakeTensorMode) -> None:
    """Move a model as `model.to("cuda:0")` would, which raises for fake tensors."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                on_device = mode.from_tensor(value).detach().to("cuda:0")
                module._parameters[name] = nn.Parameter(on_device)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = mode.from_tensor(value).to("cuda:0")


@pytest.fixture
def learner(faked_api, request):
    model, settings = product.make_model(), STEPS[getattr(request, "param", "clean")]
    with FakeCuda() as mode, InAutograd():
        put_on_cuda(model, mode)
        learner = product.make_learner("cuda:0", model=model, **settings)
        mode.in_setup = False
        yield learner


@pytest.mark.parametrize("learner", STEPS, indirect=True)
def test_a_step_stays_on_the_device(learner):
    images, labels = product.make_batch("cuda:0")
    assert images.is_cuda and labels.is_cuda
    for _ in range(2):
        learner.train_batch(images, labels)
    assert all(value.is_cuda for value in learner.model.state_dict().values())


def test_a_batch_with_labels_on_the_host_is_found(learner):
    images, labels = product.make_batch("cuda:0")
    with pytest.raises(RuntimeError, match="device"):
        learner.train_batch(images, labels.to("cpu"))


def test_a_tensor_on_the_host_in_the_step_is_found(learner):
    batch = product.make_batch("cuda:0")
    on_host = torch.zeros(3)
    step = product.step_that(learner, lambda loss: loss + on_host)
    with step, pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
        learner.train_batch(*batch)


def test_a_value_that_the_host_needs_is_found(learner):
    batch = product.make_batch("cuda:0")
    step = product.step_that(learner, lambda loss: loss.item())
    with step, pytest.raises(DataDependentOutputException):
        learner.train_batch(*batch)


def test_a_trial_step_does_not_call_other_ranks_for_batch_norm(faked_api, monkeypatch):
    """Another rank may have failed, and would never answer."""

    def refuse(*_: object) -> None:
        raise AssertionError("another rank was called")

    of_group = torch.distributed.get_world_size
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed,
        "get_world_size",
        lambda group=None: 2 if group is None else of_group(group),
    )
    monkeypatch.setattr(torch.nn.modules.batchnorm.sync_batch_norm, "apply", refuse)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(product.make_model())
    with FakeCuda() as mode, InAutograd():
        put_on_cuda(model, mode)
        learner, batch = product.make_learner("cuda:0", model=model), product.make_batch("cuda:0")
        mode.in_setup = False
        with learner.without_ddp():
            learner.train_batch(*batch)
        with pytest.raises(AssertionError, match="another rank was called"):
            learner.train_batch(*batch)


@pytest.mark.parametrize("restarts", [1, 2])
def test_an_evaluation_attack_stays_on_the_device(faked_api, restarts):
    attack = EvaluationAttack(
        steps=2, random_start="ball", best_iterate=True, restarts=restarts, norm="linf"
    )
    model = product.make_model().eval()
    with FakeCuda() as mode, InAutograd():
        put_on_cuda(model, mode)
        attack_images = AttackPlan(attack, 0.3, "bf16", "cuda:0").attack_on(model)
        images, labels = product.make_batch("cuda:0")
        mode.in_setup = False
        attacked = attack_images(images, labels)
        assert attacked.is_cuda and attacked.shape == images.shape
        with pytest.raises(RuntimeError, match="device"):
            attack_images(images, labels.to("cpu"))
