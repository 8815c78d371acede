"""Run the stages of a matrix: executor, launchers, workers, leases, results on disk."""
