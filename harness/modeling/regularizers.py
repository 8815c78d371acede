"""Regularizers of Kornblith et al. 2019: BatchNorm without a scale, and an auxiliary head.

If a model is pretrained without scales, its BatchNorms have none in transfers either. The auxiliary
head is used in pretraining only. The third regularizer of the paper, dropout before the head, is
part of `Classifier`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from harness.modeling.blocks import blocks_of, module_of
from harness.modeling.module_modes import eval_mode
from writers.errors import UserError

AUX_WEIGHT = 0.4  # weight of the auxiliary loss, as in TF-slim's Inception v3
# Side, in pixels, of the image that the backbone runs on once, to find the number of channels. A
# smaller image may shrink to nothing before the last block.
_RESOLUTION = 224


def fix_batch_norm_scale(network: nn.Module, arch: str) -> None:
    """Fix the scale of each BatchNorm at 1, in place and under its old name.

    Raises:
        UserError: the network has no BatchNorm with a scale.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and isinstance(module.weight, nn.Parameter)
    ]
    for module in norms:
        ones = torch.ones_like(module.weight, requires_grad=False)
        del module.weight
        # A buffer is saved and loaded under the same name, but not trained.
        module.register_buffer("weight", ones)
    if not norms:
        raise UserError(
            f"batch_norm_scale has no effect on {arch}: it has no BatchNorm with a scale.",
            "Leave it out.",
        )


class AuxiliaryHead(nn.Module):
    """Linear classifier on the spatial mean of the backbone's features after half of its blocks.

    GoogLeNet's auxiliary head has two more layers. Both heads give the early layers a shorter path
    to a loss.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        """Build the head, with weights from torch's global generator.

        Raises:
            UserError: the backbone has no [B, C, H, W] features after half of its blocks.
        """
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
                "aux_head has no effect on this architecture: it has no feature maps half-way.",
                "Leave it out.",
            )
        self.linear = nn.Linear(shape[1], num_classes)

    def forward(self) -> Tensor:
        """Return logits [B, K] for the images of the backbone's last forward pass."""
        assert self._seen is not None, "the backbone has not run in training mode"
        seen, self._seen = self._seen, None
        logits: Tensor = self.linear(seen.mean((2, 3)))
        return logits

    def _remember(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if (module.training or self._always) and isinstance(output, Tensor):
            self._seen = output
