"""What Kornblith et al. 2019 switch on and off in pretraining, beside label smoothing: BatchNorm's scale, a second head.

Without its scale a BatchNorm has none in transfers either; the second head is dropped behind pretraining. Dropout before the
head is the Classifier's own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from harness.modeling.blocks import blocks_of, module_of
from harness.modeling.module_modes import eval_mode
from writers.errors import UserError

AUX_WEIGHT = (
    0.4  # of the second head's loss, as in TF-slim's training of Inception v3; the first is 1
)
_RESOLUTION = 224  # of the image that finds the widths; smaller ones may end before the last block


def fix_batch_norm_scale(network: nn.Module, arch: str) -> None:
    """Make each BatchNorm's scale a constant 1, in place and under its old name. Raises UserError where there is none."""
    found = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and isinstance(module.weight, nn.Parameter)
    ]
    for module in found:
        ones = torch.ones_like(module.weight, requires_grad=False)
        del module.weight
        module.register_buffer(
            "weight", ones
        )  # saved and loaded as before, and no parameter: nothing trains it
    if not found:
        raise UserError(
            f"batch_norm_scale has no effect on {arch}: it has no BatchNorm with a scale.",
            "Leave it out.",
        )


class AuxiliaryHead(nn.Module):
    """A linear classifier on the mean of what a backbone has half-way through its blocks, in training.

    GoogLeNet's has two more layers; what it is for, a gradient that has half the way to go, this one has, too.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        """Raises UserError for a backbone that has no [B, C, H, W] there. Draws its weights from torch's global generator."""
        super().__init__()
        blocks = blocks_of(backbone)
        middle = module_of(backbone, blocks[(len(blocks) - 1) // 2])
        self.linear: nn.Linear
        self._seen: Tensor | None = None
        middle.register_forward_hook(self._remember)
        first = next(backbone.parameters())
        self._always = True
        with eval_mode(backbone), torch.no_grad():
            backbone(torch.zeros(1, 3, _RESOLUTION, _RESOLUTION, device=first.device))
        self._always = False
        shape = self._seen.shape if self._seen is not None else ()
        self._seen = None
        if len(shape) != 4:
            raise UserError(
                "aux_head has no effect on this architecture: half-way there are no maps of channels to look at.",
                "Leave it out.",
            )
        self.linear = nn.Linear(shape[1], num_classes)

    def forward(self) -> Tensor:
        """[B, K] logits for the images that the backbone has just seen."""
        assert self._seen is not None, "the backbone has seen nothing, or was not training"
        seen, self._seen = self._seen, None
        logits: Tensor = self.linear(seen.mean((2, 3)))
        return logits

    def _remember(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if (module.training or self._always) and isinstance(output, Tensor):
            self._seen = output
