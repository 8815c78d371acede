"""Training from random weights, the baseline of every transfer."""
