"""Scripts that generate the data files of this package."""
