"""Kinds of stages, one package each.

`<kind>/spec.py` declares the kind without importing torch (`harness.matrix.stage_kind`);
`<kind>/run.py` has `run(context) -> Outcome`, the work itself.
"""
