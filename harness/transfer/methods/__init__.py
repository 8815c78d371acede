"""Transfer methods, one package each.

`<name>/settings.py` has `SETTINGS`, the settings model, and imports no torch; `<name>/method.py`
has what `harness.transfer.method.Method` lists.
"""
