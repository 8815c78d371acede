"""Build the tables of a report."""
