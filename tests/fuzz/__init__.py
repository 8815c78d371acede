"""Fuzzers for the C code, both decoding kernels and the tables of `.beton` files; run by `make fuzz`.

`python -m tests.fuzz TARGET` mutates inputs of one kind and passes them to public functions.
The targets:

* jpeg: JPEG streams, baseline and progressive, with all chroma subsamplings.
* index: JPEGs with a restart index, most of them with a repaired checksum.
* dct: dct blobs, most of them with a repaired checksum.
* beton: tables and manifests of betons, most of them with updated digests.

The C extensions are built with AddressSanitizer and UndefinedBehaviorSanitizer, and numba checks
the bounds of arrays. A finding is a crash, a sanitizer report, a case that takes too long, an
unexpected exception, or pixels that differ between two decoders. Each case depends only on the
target, the seed and its number: `TARGET --seed S --first N --count 1` repeats case N.
"""
