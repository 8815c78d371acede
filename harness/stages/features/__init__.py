"""Extract a frozen model's features of a target."""
