"""The `Learner` protocol, which the training loop drives, and the totals that it reports."""

from typing import Any, Protocol, TypedDict

from torch import Tensor


class Totals(TypedDict):
    """Sums and means over the batches since the last call of `Learner.totals`, over all ranks.

    Attributes:
        loss: Mean training loss in nats per image.
        top1: Fraction of training images whose highest logit belongs to a correct class.
        num_images: Number of images.
        zero_gradients: Number of input gradients in attacks that were zero everywhere.
    """

    loss: float
    top1: float
    num_images: int
    zero_gradients: int


class Learner(Protocol):
    """Interface that the training loop uses; trains one model, or several heads on one backbone."""

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of the schedule; if several heads train, the lowest of their peaks."""

    def set_rate(self, fraction: float) -> None:
        """Set the learning rate of the next steps, as a fraction of the peak."""

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """Take one training step. Never waits for the GPU.

        Args:
            images: uint8 [B, 3, R, R], channels_last, on the training device.
            labels: classes, int64 [B]; several labels, int8 [B, K], with 1 present, 0 difficult,
                -1 absent; or probabilities of mixed images (MixUp), float32 [B, K].
        """

    def first_bad_step(self) -> int | None:
        """Return the first step with a loss or weight that is not finite. Waits for the GPU.

        Returns:
            Step number, counted from the last call of `totals`; None if everything is finite.
        """

    def totals(self) -> Totals:
        """Return the totals since the last call, and reset them. Waits for the GPU."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later steps and the next call of `totals` depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
