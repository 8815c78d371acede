"""Run a recipe to a finished matrix of pretrained and transferred models, timed and resumable."""
