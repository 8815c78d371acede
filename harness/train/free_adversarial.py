"""Noise on the images in free adversarial training (Shafahi et al. 2019).

One backward pass gives the gradients that update the weights and the noise. As in the published
code, each batch starts from the noise of the previous batch.
"""

import torch
from torch import Tensor

from harness.config.attack import AttackSettings
from harness.train.attack import ascent, count_zero_gradients, within_ball


class FreeNoise:
    """Noise on the images of a batch.

    Attributes:
        delta: The noise, [B, 3, R, R] in the dtype of the pixels; None before the first batch. It
            becomes zero if the resolution changes, or if a batch has more images than the noise.
        num_replays: Number of updates per batch.
    """

    def __init__(self, settings: AttackSettings, eps: float, zero_gradients: Tensor) -> None:
        """Start without noise.

        Args:
            settings: Norm, step length and number of replays.
            eps: Radius of the ball in units of [0, 1] pixels.
            zero_gradients: int64 scalar, to which the number of images with zero gradient is added.
        """
        assert settings.replays is not None
        self.num_replays = settings.replays
        self.delta: Tensor | None = None
        self._settings, self._eps, self._zero_gradients = settings, eps, zero_gradients

    def add_to(self, pixels: Tensor) -> Tensor:
        """Add the noise to pixels, float [B, 3, R, R] in [0, 1]; return new images in [0, 1]."""
        if (
            self.delta is None
            or self.delta.shape[1:] != pixels.shape[1:]
            or len(self.delta) < len(pixels)
        ):
            self.delta = torch.zeros_like(pixels)
        return (pixels + self.delta[: len(pixels)]).clamp_(0, 1)

    def ascend(self, gradient: Tensor) -> None:
        """Move the noise along a gradient, and project it. Does not wait for the GPU.

        Args:
            gradient: Gradient [B, 3, R, R] of the loss at the images that `add_to` returned.
        """
        assert self.delta is not None
        eps = self._settings.eps_of(self._eps, gradient.shape[-1])
        # A gradient that overflowed in fp16 becomes 0, so that pixel does not move.
        gradient = torch.nan_to_num(gradient.float(), nan=0.0, posinf=0.0, neginf=0.0)
        count_zero_gradients(gradient, self._zero_gradients)
        delta = self.delta[: len(gradient)]
        step = ascent(gradient, self._settings.norm, self._settings.step_length(eps))
        delta.copy_(within_ball(delta + step, self._settings.norm, eps))
