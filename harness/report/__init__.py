"""From results to one HTML page: tables, figures, timing and what ran. Reads result.json files only."""
