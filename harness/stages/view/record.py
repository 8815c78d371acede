"""Record of a view stage. Imports no torch."""

from harness.stages.write.record import WriteMetrics


class ViewMetrics(WriteMetrics):
    """Metrics of a view stage: those of a write stage, and the selected images.

    Paths and digests are those of the betons of the whole source.
    """

    view: dict[str, str]  # split -> file with positions and labels, in the stage's folder
