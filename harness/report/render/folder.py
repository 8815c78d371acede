"""Keep the folder of a recipe's report consistent: all files are from the same results."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing the report takes a second, and a run without changes needs none
    from harness.report.render.report import Report

MADE_FROM = "made_from.sha256"  # digest of what the files were made from; see `harness run`


def formats_of(folder: Path) -> tuple[str, ...]:
    """Return the formats that a run writes: html, csv, and those that the folder has already."""
    formats = ["html", "csv"]
    if (folder / "report.md").exists():
        formats.append("md")
    if find_spec("pyarrow") is not None and any(folder.glob("*.parquet")):
        formats.append("parquet")
    return tuple(formats)


def delete_other_figures(report: "Report", folder: Path) -> None:
    """Delete the figures of an earlier report that this one lacks."""
    names = {panel.name for section in report.sections for panel in section.all_panels}
    if report.lead is not None:
        names.add(report.lead.name)
    for file in (folder / "figures").glob("*.*"):
        if file.suffix in (".csv", ".svg") and file.stem not in names:
            file.unlink(missing_ok=True)
