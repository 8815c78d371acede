"""Free adversarial training (Shafahi et al. 2019): the gradient that trains the weights also moves the images.

The noise outlives its batch, as in the published code: the next batch starts from where this one's ended.
"""

import torch
from torch import Tensor

from harness.config.attack import AttackSettings
from harness.train.attack import ascent, count_zero_gradients, within_ball


class FreeNoise:
    """What is added to the images of a batch, [B, 3, R, R]; zero at the start, and after a change of resolution."""

    def __init__(self, settings: AttackSettings, eps: float, zero_gradients: Tensor) -> None:
        assert settings.replays is not None
        self.num_replays = settings.replays
        self._settings, self._eps, self._zero_gradients = settings, eps, zero_gradients
        self.noise: Tensor | None = None

    def add_to(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, R, R] floats in [0, 1]. New images in [0, 1]."""
        if (
            self.noise is None
            or self.noise.shape[1:] != pixels.shape[1:]
            or len(self.noise) < len(pixels)
        ):
            self.noise = torch.zeros_like(pixels)
        return (pixels + self.noise[: len(pixels)]).clamp_(0, 1)

    def move(self, gradient: Tensor) -> None:
        """Take the gradient of the images that `add_to` gave. Does not wait for the GPU."""
        assert self.noise is not None
        eps = self._settings.eps_of(self._eps, gradient.shape[-1])
        gradient = torch.nan_to_num(
            gradient.float(), nan=0.0, posinf=0.0, neginf=0.0
        )  # overflow of fp16
        count_zero_gradients(gradient, self._zero_gradients)
        mine = self.noise[: len(gradient)]
        mine.copy_(
            within_ball(
                mine + ascent(gradient, self._settings.norm, self._settings.step_length(eps)),
                self._settings.norm,
                eps,
            )
        )
