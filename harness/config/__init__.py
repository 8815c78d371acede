"""Settings of recipes: pydantic models, presets, and reading with file and line."""
