"""Transfer with fixed features: a new linear head on frozen weights."""
