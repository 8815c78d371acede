"""Turn records into plain columns, for data frames and Parquet."""

import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from writers.errors import UserError

Scalar = str | float | int | bool | None
Record = dict[str, Scalar]


def field_names(kind: type) -> tuple[str, ...]:
    """Return the fields of a dataclass or of a named tuple, in order."""
    names: tuple[str, ...] | None = getattr(kind, "_fields", None)  # named tuples have it
    return names or tuple(field.name for field in dataclasses.fields(kind))


def flat_records(kind: type, rows: Iterable[object]) -> list[Record]:
    """Turn records of type `kind` into dictionaries of plain values with equal keys.

    A mapping becomes one column per key, such as `chosen.lr`; a tuple becomes `x;y`; NaN becomes
    None.
    """
    fields = field_names(kind)
    flat = [_flat(fields, row) for row in rows]
    columns = dict.fromkeys(name for record in flat for name in record)
    return [{name: record.get(name) for name in columns} for record in flat]


def to_parquet(kind: type, rows: Iterable[object]) -> bytes:
    """Format the rows as a Parquet file with the columns of `flat_records`.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow.", "pip install 'harness[parquet]'") from error
    records = flat_records(kind, rows)
    names = list(records[0]) if records else field_names(kind)
    columns = {name: _one_type([record[name] for record in records]) for name in names}
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def _one_type(values: list[Scalar]) -> list[Scalar]:
    """Convert a column with several types: int and float to float, other mixtures to text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        return [None if value is None else str(value) for value in values]
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return values


def _flat(fields: Sequence[str], row: object) -> Record:
    record: Record = {}
    for field in fields:
        value = getattr(row, field)
        if isinstance(value, Mapping):
            record |= {f"{field}.{name}": _scalar(item) for name, item in value.items()}
        else:
            record[field] = _scalar(value)
    return record


def _scalar(value: object) -> Scalar:
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, str | float | int | bool):
        return value
    return ";".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
