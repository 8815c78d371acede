"""Record of a view stage. Imports no torch."""

from harness.stages.write.record import WriteMetrics


class ViewMetrics(WriteMetrics):
    """Metrics of a view stage: the fields of a write stage, and the selected images.

    The fields `path`, `bytes` and `sha256` describe the `.beton` files of all source images.
    """

    view: dict[str, str]  # split -> file in the stage's folder, with positions and labels
