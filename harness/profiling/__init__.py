"""Timer spans, GPU utilization and traces."""
