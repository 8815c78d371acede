"""Build a static leaderboard from the results of recipes, and merge rows of other people."""
