"""JPEG: restart index, markers, resizing, and the C library that does it."""
