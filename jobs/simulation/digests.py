"""What a frozen world is told apart by: its settings, and a sample of its rows."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from jobs.simulation.days import Day, whole_day
from jobs.simulation.tables import tables
from jobs.simulation.world import World

_SAMPLE_DAY = 1
"""The first day that another day's events sway."""


def digest(world: World) -> str:
    """SHA-256 of a world's settings and of a sample of its rows.

    The sample is one of its first days, and a later day of the same world at a small size, by which
    histories have grown and the abrupt change has come.
    """
    small = {"num_users": 100, "num_ads": 40, "num_impressions": 500}
    later = world.model_copy(update=small)
    found = hashlib.sha256(world.model_dump_json().encode())
    for day in (whole_day(world, _SAMPLE_DAY), whole_day(later, max(world.change_day or 0, 16))):
        _add(found, day)
    return found.hexdigest()


def _add(found: hashlib._Hash, day: Day) -> None:
    for name, table in tables(day).items():
        for column in table.column_names:
            found.update(f"{name}.{column}".encode())
            found.update(_plain(table.column(column).combine_chunks()))


def _plain(values: pa.Array) -> bytes:
    """Bytes of a column; numbers to six decimals, as processors differ in the last ones."""
    if pa.types.is_string(values.type):
        return "\n".join(values.to_pylist()).encode()
    numbers = values.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type):
        return numbers.astype(np.int64).tobytes()
    return (
        np.rint(np.nan_to_num(numbers, nan=-1.0).astype(np.float64) * 1e6).astype("<i8").tobytes()
    )
