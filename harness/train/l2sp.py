"""L2-SP: weights are pulled towards where they started, or towards zero (Li, Grandvalet and Davoine, ICML 2018, eq. 3).

    alpha / 2 * |w_S - w_S start|^2  +  beta / 2 * |w_others|^2

Its gradient is added to that of the loss, so no graph is built for it. Only weights of convolutions and linear layers are
pulled. The start is not part of a checkpoint: whoever resumes has it from where the model came from.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from harness.train.optimizer import weights_of


class Pull:
    """Adds the penalty's gradient to `.grad`, when called. Never waits for the GPU."""

    def __init__(
        self, model: nn.Module, towards_start: Iterable[nn.Parameter], *, alpha: float, beta: float
    ) -> None:
        """model: as it starts. towards_start: the weights that alpha pulls; beta pulls all others that train."""
        transferred = set(towards_start)
        weights = [weight for weight in dict.fromkeys(weights_of(model)) if weight.requires_grad]
        self._kept = [weight for weight in weights if weight in transferred]
        self._starts = [weight.detach().clone() for weight in self._kept]
        self._others = [weight for weight in weights if weight not in transferred]
        self.alpha, self.beta = alpha, beta

    def __call__(self) -> None:
        if self._kept and self.alpha > 0:
            gradients = _gradients(self._kept)
            torch._foreach_add_(
                gradients, [weight.detach() for weight in self._kept], alpha=self.alpha
            )
            torch._foreach_add_(gradients, self._starts, alpha=-self.alpha)
        if self._others and self.beta > 0:
            torch._foreach_add_(
                _gradients(self._others),
                [weight.detach() for weight in self._others],
                alpha=self.beta,
            )


def _gradients(weights: Sequence[nn.Parameter]) -> list[Tensor]:
    found = [weight.grad for weight in weights]
    assert all(gradient is not None for gradient in found), (
        "a weight that trains and has no gradient"
    )
    return found  # type: ignore[return-value]
