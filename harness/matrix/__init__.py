"""From a recipe to the stages that it needs: a directed acyclic graph, keyed by content."""
