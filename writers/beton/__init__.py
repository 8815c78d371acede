"""The .beton file: layout, writing, reading, copying and verification."""
