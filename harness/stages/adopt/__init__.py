"""Load pretrained weights as a model of this project."""
