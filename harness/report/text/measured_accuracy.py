"""Write sentences on the source accuracy of loaded models (the recipe's `models`).

The accuracy may be measured here, on the source dataset, or published by the model's authors.
"""

from collections.abc import Sequence

from harness.report.data.records import SourceAccuracyRow
from harness.report.text.phrases import join_words
from writers.text_names import percent

MAX_FROM_PUBLISHED = 0.01  # models that differ more from their published accuracy are named
MAX_NAMED = 6  # largest number of models in a sentence; the table has all models


def about_differences(rows: Sequence[SourceAccuracyRow]) -> str:
    """Name the loaded models whose measured accuracy is far from the published one; "" if none."""
    compared = [row for row in rows if row.difference is not None]
    far = [row for row in compared if abs(row.difference or 0.0) > MAX_FROM_PUBLISHED]
    if not far:
        return ""
    shown = [
        f"{row.model} ({percent(row.measured or 0.0, 1)} %, published "
        f"{percent(row.published or 0.0, 1)} %)"
        for row in far[:MAX_NAMED]
    ]
    more = f" and {len(far) - MAX_NAMED:,} more" if len(far) > MAX_NAMED else ""
    return (
        f"Measured and published source accuracy differ by more than {100 * MAX_FROM_PUBLISHED:g} "
        f"point for {len(far):,} of {len(compared):,} loaded models that have both: "
        f"{', '.join(shown) if more else join_words(shown)}{more}."
    )


def about_most_accurate(rows: Sequence[SourceAccuracyRow]) -> str:
    """Name the loaded model with the highest measured accuracy; "" if none was measured."""
    measured = [row for row in rows if row.measured is not None]
    if not measured:
        return ""
    best = max(measured, key=lambda row: row.measured or 0.0)
    among = f"Of {len(measured):,} loaded models, {best.model} has the highest"
    start = among if len(measured) > 1 else f"{best.model} has an"
    return (
        f"{start} accuracy on the source: {percent(best.measured or 0.0, 1)} % of "
        f"{best.num_images or 0:,} images."
    )
