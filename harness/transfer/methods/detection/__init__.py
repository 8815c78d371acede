"""Transfer to detection: Faster R-CNN on a pretrained ResNet."""
