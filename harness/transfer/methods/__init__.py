"""Transfer methods, one package each.

`<name>/settings.py` has `SETTINGS`, the settings model, and imports no torch; `<name>/method.py`
implements `Method` or `FeatureMethod` of `harness.transfer.method`.
"""
