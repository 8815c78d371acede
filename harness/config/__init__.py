"""What a recipe may contain: pydantic models, presets, and reading with file and line."""
