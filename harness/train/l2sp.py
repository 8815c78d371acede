"""L2-SP penalty, which pulls weights toward their pretrained values or toward zero.

    alpha / 2 * |w_S - w_S0|^2  +  beta / 2 * |w_other|^2

w_S are the transferred weights, w_S0 their pretrained values, and w_other all other trained weights
(Li, Grandvalet and Davoine, ICML 2018, eq. 3). The penalty's gradient is computed directly and
added to the loss's gradient, without autograd. Only weights of convolutions and linear layers are
penalized. Checkpoints do not hold the pretrained values, because a resumed run loads the same
pretrained model.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from harness.train.optimizer import weights_of


class L2SPPenalty:
    """Penalty whose gradient is added to `.grad` before each update."""

    def __init__(
        self, model: nn.Module, toward_start: Iterable[nn.Parameter], *, alpha: float, beta: float
    ) -> None:
        """Copy the values toward which the penalty pulls.

        Args:
            model: The pretrained model, before it is trained on.
            toward_start: Weights that `alpha` pulls toward their current values. `beta` pulls the
                other trained weights toward zero.
            alpha: Strength of the pull toward the current values.
            beta: Strength of the pull toward zero.
        """
        transferred = set(toward_start)
        weights = [weight for weight in dict.fromkeys(weights_of(model)) if weight.requires_grad]
        self._transferred = [weight for weight in weights if weight in transferred]
        self._starts = [weight.detach().clone() for weight in self._transferred]
        self._others = [weight for weight in weights if weight not in transferred]
        self.alpha, self.beta = alpha, beta

    def add_gradients(self, unscale: Callable[[], None]) -> None:
        """Add the penalty's gradient to `.grad`. Never waits for the GPU.

        Args:
            unscale: Function that divides `.grad` by the loss scale of fp16. It is called first.
        """
        unscale()
        if self._transferred and self.alpha > 0:
            gradients = _gradients(self._transferred)
            torch._foreach_add_(
                gradients, [weight.detach() for weight in self._transferred], alpha=self.alpha
            )
            torch._foreach_add_(gradients, self._starts, alpha=-self.alpha)
        if self._others and self.beta > 0:
            torch._foreach_add_(
                _gradients(self._others),
                [weight.detach() for weight in self._others],
                alpha=self.beta,
            )


class NoPenalty:
    """Replacement of `L2SPPenalty` that adds nothing, for training without a penalty."""

    def add_gradients(self, unscale: Callable[[], None]) -> None:
        """Do nothing."""


NO_PENALTY = NoPenalty()


def _gradients(weights: Sequence[nn.Parameter]) -> list[Tensor]:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    assert len(gradients) == len(weights), "a weight that trains has no gradient"
    return gradients
