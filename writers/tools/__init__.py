"""Scripts that made the data files of this package."""
