"""Transfer methods, one package each.

`<name>/settings.py` has `SETTINGS`, the settings model, and does not import torch.
`<name>/method.py` implements `Method` or `StageMethod` of `harness.transfer.method`.
"""
