"""Turn results into one HTML page: tables, figures and timing. Reads result.json files only."""
