"""`dct` blobs: quantized JPEG coefficients without entropy coding, for fast decoding of a crop.

`blob.h` defines the layout, `blob.py` converts and checks blobs, and `reference.py` is a slow
reference decoder.
"""
