"""Noise of free adversarial training (Shafahi et al. 2019).

One gradient updates both the weights and the noise. The noise is kept from batch to batch, as in
the published code: a batch starts from the noise of the previous one.
"""

import torch
from torch import Tensor

from harness.config.attack import AttackSettings
from harness.train.attack import ascent, count_zero_gradients, within_ball


class FreeNoise:
    """Noise on the images of a batch.

    Attributes:
        delta: float32 [B, 3, R, R]; None before the first batch. Reset to zero if the resolution
            changes.
        num_replays: Updates per batch.
    """

    def __init__(self, settings: AttackSettings, eps: float, zero_gradients: Tensor) -> None:
        """Start without noise.

        Args:
            settings: Norm, step length and number of replays.
            eps: Radius of the ball in units of [0, 1] pixels.
            zero_gradients: int64 scalar; the number of zero gradients is added to it.
        """
        assert settings.replays is not None
        self.num_replays = settings.replays
        self.delta: Tensor | None = None
        self._settings, self._eps, self._zero_gradients = settings, eps, zero_gradients

    def add_to(self, pixels: Tensor) -> Tensor:
        """Return new images in [0, 1]. pixels: float [B, 3, R, R] in [0, 1]."""
        if (
            self.delta is None
            or self.delta.shape[1:] != pixels.shape[1:]
            or len(self.delta) < len(pixels)
        ):
            self.delta = torch.zeros_like(pixels)
        return (pixels + self.delta[: len(pixels)]).clamp_(0, 1)

    def ascend(self, gradient: Tensor) -> None:
        """Move the noise along the gradient of the images that `add_to` returned, [B, 3, R, R].

        Does not wait for the GPU.
        """
        assert self.delta is not None
        eps = self._settings.eps_of(self._eps, gradient.shape[-1])
        # fp16 overflow: no step in that pixel.
        gradient = torch.nan_to_num(gradient.float(), nan=0.0, posinf=0.0, neginf=0.0)
        count_zero_gradients(gradient, self._zero_gradients)
        delta = self.delta[: len(gradient)]
        step = ascent(gradient, self._settings.norm, self._settings.step_length(eps))
        delta.copy_(within_ball(delta + step, self._settings.norm, eps))
