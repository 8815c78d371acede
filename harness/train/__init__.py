"""The training loop, the attack and the evaluation, and the choice of how they are compiled."""
