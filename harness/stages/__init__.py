"""Kinds of stages, one package each.

`<kind>/spec.py` declares the kind without importing torch (see `harness.matrix.stage_kind`).
`<kind>/run.py` has `run(context) -> Outcome`, which does the work.
"""
