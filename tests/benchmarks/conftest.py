"""Import FFCV without what it compiles when it is imported, before a test imports it."""

import loaders.ffcv_parts  # noqa: F401
