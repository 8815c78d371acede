"""Test-time augmentation with the horizontal flip."""

from torch import Tensor, nn


class FlipAverage(nn.Module):
    """Model that averages the logits of an image and of its horizontal flip.

    Gradients flow through both passes, so attacks take both into account.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of images [B, 3, R, R]."""
        logits: Tensor = (self.model(images) + self.model(images.flip(3))) / 2
        return logits
