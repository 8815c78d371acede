"""Processes, folders and files: what does not depend on machine learning."""
