"""Build Faster R-CNN on the stages of a ResNet, with torchvision's components."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import BatchNorm, eval_mode
from harness.transfer.methods.detection.settings import DetectionSettings
from writers.errors import UserError

NUM_STAGES = 4  # number of stages after the stem
ASPECT_RATIOS = (0.5, 1.0, 2.0)
PYRAMID_CHANNELS, LINEAR_CHANNELS = 256, 1024
# Side of a region that is cut from a feature map, in cells, for each neck of the
# settings. In c4, the fourth stage halves this side.
REGION_CELLS = {"c4": 14, "fpn": 7}
SAMPLES_PER_CELL = 2  # sampling points of RoIAlign along each side of a cell
# Largest number of proposals per image in training and in evaluation, from Ren et al. 2015.
PROPOSALS_TRAIN, PROPOSALS_TEST = 2000, 300
# Detections of a class with a larger IoU with a better one are suppressed, as in Girshick 2015.
NMS_IOU = 0.3
MIN_SCORE = 0.05
PROBE_SIDE = 64  # side, in pixels, of the image that finds the widths of the stages


class Detector(FasterRCNN):  # type: ignore[misc]
    """Faster R-CNN for uint8 images, with the normalization of the pretrained network.

    Frozen modules stay in evaluation mode, even after `train()`.
    """

    def __init__(self, model: Classifier, num_classes: int, settings: DetectionSettings) -> None:
        """Build a detector on the backbone of a model. The backbone is not copied.

        Args:
            model: pretrained network.
            num_classes: number of classes of objects, without the background.
            settings: settings of the method.

        Raises:
            UserError: the network is not a ResNet with a stem and four stages.
        """
        stages = split_resnet(model.backbone)
        body = _Pyramid(stages) if settings.neck == "fpn" else _Map(stages[:NUM_STAGES])
        is_pyramid, cells = settings.neck == "fpn", REGION_CELLS[settings.neck]
        sides = settings.anchor_sides
        anchors = AnchorGenerator(
            tuple((side,) for side in sides) if is_pyramid else (tuple(sides),),
            (ASPECT_RATIOS,) * (len(sides) if is_pyramid else 1),
        )
        head = (
            TwoMLPHead(PYRAMID_CHANNELS * cells**2, LINEAR_CHANNELS)
            if is_pyramid
            else _StageHead(stages[NUM_STAGES])
        )
        predictor = FastRCNNPredictor(
            LINEAR_CHANNELS if is_pyramid else model.feature_dim, num_classes + 1
        )
        _initialize(predictor)
        super().__init__(
            body,
            min_size=settings.short_side,
            max_size=settings.long_side,
            image_mean=model.mean.flatten().tolist(),
            image_std=model.std.flatten().tolist(),
            rpn_anchor_generator=anchors,
            rpn_head=_FullPrecision(
                RPNHead(body.out_channels, anchors.num_anchors_per_location()[0])
            ),
            rpn_post_nms_top_n_train=PROPOSALS_TRAIN,
            rpn_post_nms_top_n_test=PROPOSALS_TEST,
            box_roi_pool=MultiScaleRoIAlign(
                ["0", "1", "2", "3"] if is_pyramid else ["0"], cells, SAMPLES_PER_CELL
            ),
            box_head=head,
            box_predictor=_FullPrecision(predictor),
            box_score_thresh=MIN_SCORE,
            box_nms_thresh=NMS_IOU,
            box_batch_size_per_image=settings.regions_per_image,
        )
        norms = [module for stage in stages for module in stage.modules()]
        frozen = [module for stage in stages[: settings.train_from] for module in stage.modules()]
        if settings.bn_stats == "frozen":
            frozen += [module for module in norms if isinstance(module, BatchNorm)]
        self._frozen = tuple(dict.fromkeys(frozen))
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "Detector":
        """Set the mode; frozen modules always get evaluation mode."""
        super().train(mode)
        for module in getattr(self, "_frozen", ()):
            module.training = False
        return self

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Compute losses in training mode, and detections in evaluation mode.

        Args:
            images: uint8 [3, H, W], of varying size.
            targets: for each image, `boxes`, float32 [n, 4] in pixels, and `labels`, int64 [n],
                from 1, because 0 is the background. Used in training only.

        Returns:
            In training, name -> loss, a scalar. Otherwise for each image `boxes`, in pixels of the
            given image, `labels` and `scores`.
        """
        return super().forward([image.float().div_(255) for image in images], targets)


def split_resnet(backbone: nn.Module) -> list[nn.Module]:
    """Divide a ResNet into its stem and its four stages. The modules are not copied.

    Raises:
        UserError: the network does not have these parts.
    """
    children = dict(backbone.named_children())
    for name in ("layer", "stage"):
        stages = [children.get(f"{name}{number}") for number in range(1, NUM_STAGES + 1)]
        if all(stage is not None for stage in stages) and f"{name}5" not in children:
            names = list(children)
            stem = nn.Sequential(
                OrderedDict((own, children[own]) for own in names[: names.index(f"{name}1")])
            )
            return [stem, *(stage for stage in stages if stage is not None)]
    raise UserError(
        f"Detection needs a ResNet of a stem and {NUM_STAGES} stages; this network is a "
        f"{type(backbone).__name__} without them.",
        "Leave the model or the target out.",
    )


class _Map(nn.Module):
    """Backbone of c4: a sequence of stages; the output of the last one is the only feature map."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.out_channels = _widths(stages)[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map [B, 3, H, W] to {"0": [B, C, H / 16, W / 16]}."""
        hidden = images.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            hidden = stage(hidden)
        return {"0": hidden}


class _Pyramid(nn.Module):
    """Backbone of fpn: a feature pyramid (Lin et al. 2017) on all stages except the stem."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.out_channels = PYRAMID_CHANNELS
        self.pyramid = FeaturePyramidNetwork(
            _widths(stages)[1:], PYRAMID_CHANNELS, LastLevelMaxPool()
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map [B, 3, H, W] to five feature maps, the first of which has stride 4."""
        hidden, maps = images.contiguous(memory_format=torch.channels_last), OrderedDict()
        for number, stage in enumerate(self.stages):
            hidden = stage(hidden)
            if number:
                maps[str(number - 1)] = hidden
        pyramid: dict[str, Tensor] = self.pyramid(maps)
        return pyramid


class _StageHead(nn.Module):
    """Head of c4 for each region: the fourth stage, followed by the mean over positions."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, regions: Tensor) -> Tensor:
        """Map R regions, [R, C, 14, 14], to features [R, D]."""
        features: Tensor = self.stage(regions.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))


class _FullPrecision(nn.Module):
    """Wrapper that converts a module's outputs to float32.

    Box coordinates that are computed in bf16 would be wrong by several pixels.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Any) -> Any:
        """Return the module's outputs in float32."""
        return tuple(
            [one.float() for one in output] if isinstance(output, list) else output.float()
            for output in self.module(features)
        )


def _widths(stages: list[nn.Module]) -> list[int]:
    """Return the number of channels of each stage's output."""
    widths, device = [], next(stages[0].parameters()).device
    hidden = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=device)
    for stage in stages:
        with eval_mode(stage), torch.no_grad():
            hidden = stage(hidden)
        widths.append(int(hidden.shape[1]))
    return widths


def _initialize(predictor: FastRCNNPredictor) -> None:
    """Draw new weights as in Girshick 2015, section 2.3, and set biases to 0."""
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
