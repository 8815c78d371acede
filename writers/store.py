"""Public names for reading a `.beton` file and its manifest.

The implementation is `writers/beton/store.py`.
"""

from writers.beton.store import Beton, Manifest, open_beton

__all__ = ["Beton", "Manifest", "open_beton"]
