"""Catalog of datasets. A name is a file with `SPEC` and `open`.

`--dataset pets` is `writers/datasets/pets.py`.
"""
