"""The training loop, the attack and the evaluation: the hot code and what chooses it."""
