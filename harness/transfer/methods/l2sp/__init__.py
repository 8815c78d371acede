"""Transfer of the full network with an L2-SP penalty."""
