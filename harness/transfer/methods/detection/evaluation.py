"""Run a detector on the images of a split."""

import torch

from harness.modeling.module_modes import eval_mode
from harness.modeling.precision import Precision, autocast
from harness.train.detection_scores import DetectionCounts
from harness.transfer.methods.detection.batches import BoxLoader, to_device
from harness.transfer.methods.detection.network import Detector


def detect(
    model: Detector, images: BoxLoader, num_classes: int, device: str, precision: Precision
) -> DetectionCounts:
    """Run a detector on every image of a loader; collect its detections and the true objects.

    Args:
        model: the detector, on the device.
        images: loader of the images, in any order.
        num_classes: number of classes of objects, without the background.
        device: device of the model.
        precision: number format of the forward pass.
    """
    counts = DetectionCounts(num_classes)
    with eval_mode(model), torch.inference_mode(), autocast(precision, device, model):
        for batch in images.epoch(0):
            found = model(to_device(batch.images, device))
            for number, one in enumerate(found):
                counts.add(
                    (
                        one["boxes"].double().cpu().numpy(),
                        one["labels"].cpu().numpy() - 1,
                        one["scores"].double().cpu().numpy(),
                    ),
                    (
                        batch.boxes[number].double().numpy(),
                        batch.labels[number].numpy(),
                        batch.difficult[number].numpy(),
                    ),
                )
    return counts
