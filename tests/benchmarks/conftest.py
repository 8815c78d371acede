"""Import FFCV without its import side effects before a test imports it."""

import loaders.ffcv_parts  # noqa: F401
