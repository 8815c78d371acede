"""Processes, folders, files and errors: everything below machine learning."""
