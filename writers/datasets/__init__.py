"""Catalog of datasets. Each file is a dataset with `SPEC` and `open` (see `writers/dataset.py`).

`--dataset pets` selects `writers/datasets/pets.py`.
"""
