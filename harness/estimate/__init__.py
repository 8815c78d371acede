"""Hours and disk space of a plan, from earlier results or from timed steps."""
