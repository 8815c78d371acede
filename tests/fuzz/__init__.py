"""Fuzzers of the C code, of both kernels and of the tables of betons; run by `make fuzz`.

`python -m tests.fuzz TARGET` mutates inputs of one kind and passes them to public functions:

* jpeg: JPEG streams, baseline and progressive, of all samplings.
* index: JPEGs with a restart index, most of them with a repaired checksum.
* dct: dct blobs, most of them with a repaired checksum.
* beton: tables and manifests of betons, most of them sealed again.

The C extensions are built with AddressSanitizer and UndefinedBehaviorSanitizer, and numba checks
the bounds of arrays. A crash, a report of a sanitizer, a case that takes too long, an unexpected
exception, or pixels that differ between two decoders is a finding. Each case depends on the seed
and its number only: `--seed S --first N --count 1` runs it again.
"""
