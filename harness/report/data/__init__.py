"""Read result records into typed rows."""
