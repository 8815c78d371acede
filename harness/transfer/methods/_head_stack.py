"""Train several linear heads of equal shape at once, with one batched product for all heads."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.config.train import ScheduleSettings
from harness.train.loss import image_losses, is_correct

# Bytes that the logits, log-probabilities and gradients of the heads in one chunk may take.
CHUNK_BYTES = 2**28
# Number of tensors with the shape of the logits in a step: logits, log-probabilities, gradient.
NUM_LOGITS = 3


class HeadStack:
    """H linear heads from D features to K classes, each with its learning rate and weight decay.

    The optimizer is SGD with momentum, as in `make_sgd`. If a head trains in a stack of another
    size, its weights differ only by the rounding of float32 sums: the kernel of the matrix product
    may depend on the number of heads.

    Attributes:
        weight: float32 [H, K, D].
        bias: float32 [H, K].
    """

    def __init__(self, start: nn.Linear, settings: Sequence[ScheduleSettings]) -> None:
        """Copy the same initial values into each head.

        Args:
            start: Head with the initial values, on the training device.
            settings: Schedule of each head. They may differ in learning rate and weight decay
                only, not in momentum, Nesterov's form or `decay_norm_and_bias`.
        """
        kinds = {(one.momentum, one.nesterov, one.decay_norm_and_bias) for one in settings}
        assert len(kinds) == 1, "heads that train at once differ in rate and weight decay only"
        ((self._momentum, self._nesterov, decays_bias),) = kinds
        num_heads, device = len(settings), start.weight.device
        self.weight = start.weight.detach().float().repeat(num_heads, 1, 1)
        self.bias = start.bias.detach().float().repeat(num_heads, 1)
        self._velocities = (torch.zeros_like(self.weight), torch.zeros_like(self.bias))
        self._peaks = torch.tensor([one.lr for one in settings], device=device)
        self._rates = self._peaks.clone()
        self._decays = torch.tensor([one.weight_decay for one in settings], device=device)
        self._bias_decays = self._decays if decays_bias else torch.zeros_like(self._decays)

    def __len__(self) -> int:
        """Return the number of heads, H."""
        return len(self.weight)

    def set_rate(self, fraction: float) -> None:
        """Set each learning rate to a fraction of its peak. Does not wait for the GPU."""
        torch.mul(self._peaks, fraction, out=self._rates)

    def step(
        self, features: Tensor, labels: Tensor, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """Take one step of each head, in chunks of at most CHUNK_BYTES, or of one head.

        Args:
            features: float32 [B, D].
            labels: classes, int64 [B]; several labels, int8 [B, K], with 1 present, 0 difficult,
                -1 absent; or probabilities of mixed images (MixUp), float32 [B, K].
            label_smoothing: Fraction of the target spread evenly over all classes.

        Returns:
            Mean loss, float32 [H], and number of correct images, int64 [H], of each head before the
            step.
        """
        num_classes, dim = self.weight.shape[1:]
        bytes_of_head = 4 * num_classes * (NUM_LOGITS * len(labels) + 2 * dim)
        size = max(1, CHUNK_BYTES // bytes_of_head)
        parts = [
            self._step_of(slice(first, first + size), features, labels, label_smoothing)
            for first in range(0, len(self), size)
        ]
        return torch.cat([losses for losses, _ in parts]), torch.cat([right for _, right in parts])

    def _step_of(
        self, chunk: slice, features: Tensor, labels: Tensor, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        weight = self.weight[chunk].detach().requires_grad_()
        bias = self.bias[chunk].detach().requires_grad_()
        num_heads = len(weight)
        logits = torch.baddbmm(
            bias[:, None], features.expand(num_heads, *features.shape), weight.transpose(1, 2)
        )
        logits = logits.flatten(0, 1)  # [H * B, K]
        repeated = labels.expand(num_heads, *labels.shape).flatten(0, 1)
        losses = image_losses(logits, repeated, label_smoothing)
        losses = losses.view(num_heads, -1).mean(1)
        gradients = torch.autograd.grad(losses.sum(), (weight, bias))
        right = is_correct(logits.detach(), repeated).view(num_heads, -1)
        tensors = (self.weight[chunk], self.bias[chunk])
        decays = (self._decays[chunk].view(-1, 1, 1), self._bias_decays[chunk].view(-1, 1))
        rates = (self._rates[chunk].view(-1, 1, 1), self._rates[chunk].view(-1, 1))
        for tensor, gradient, velocity, decay, rate in zip(
            tensors, gradients, self._velocities, decays, rates, strict=True
        ):
            gradient = gradient.addcmul(tensor, decay)
            moving = velocity[chunk].mul_(self._momentum).add_(gradient)
            if self._nesterov:
                moving = gradient.add(moving, alpha=self._momentum)
            tensor.addcmul_(moving, rate, value=-1)
        return losses.detach(), right.sum(1)

    def head(self, index: int) -> nn.Linear:
        """Return a copy of one head."""
        num_classes, dim = self.weight.shape[1:]
        head: nn.Linear = nn.utils.skip_init(nn.Linear, dim, num_classes, device=self.weight.device)
        with torch.no_grad():
            head.weight.copy_(self.weight[index])
            head.bias.copy_(self.bias[index])
        return head

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights and velocities; the tensors are not copies."""
        velocity, bias_velocity = self._velocities
        return {
            "weight": self.weight,
            "bias": self.bias,
            "velocity": velocity,
            "bias_velocity": bias_velocity,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
