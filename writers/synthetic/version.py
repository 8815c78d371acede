"""Version of the generated images. This module imports nothing, so that plans read it quickly."""

VERSION = 5  # increase it if a pixel changes: sets of other versions are generated again
