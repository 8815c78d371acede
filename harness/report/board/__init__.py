"""Build a board (a static leaderboard) from results of recipes, and merge rows of other people."""
