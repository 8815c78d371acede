"""`dct` blobs: a JPEG's quantized coefficients without entropy code, of which a crop is decoded alone, and fast.

`blob.h` has the layout, `blob.py` makes and checks blobs, `reference.py` is the slow twin of what decodes them.
"""
