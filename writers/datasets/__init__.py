"""The catalogue of datasets. A name is a file: `--dataset pets` is `writers/datasets/pets.py`; each file has `SPEC` and `open`."""
