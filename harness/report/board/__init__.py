"""A static leaderboard of one or more recipes' results, which other people's rows can join."""
