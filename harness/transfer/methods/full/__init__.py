"""Transfer of the full network."""
