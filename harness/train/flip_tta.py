"""Test-time augmentation by mirror images."""

from torch import Tensor, nn


class FlipAverage(nn.Module):
    """A model that answers with the mean of its logits for an image and for its mirror image; attacked, it is as one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, R, R] pixels to [B, K] logits."""
        return (self.model(images) + self.model(images.flip(3))) / 2
