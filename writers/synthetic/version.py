"""Version of the generated images. Imports nothing, so that plans read it quickly."""

VERSION = 5  # raise it if a change moves a pixel: sets of other versions are generated again
