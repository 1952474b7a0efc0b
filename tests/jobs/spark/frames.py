"""Small frames in and out of Spark, times always with their zone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def frame(spark: SparkSession, schema: str, *rows: Sequence[Any]) -> DataFrame:
    """A frame of literal rows."""
    return spark.createDataFrame(list(rows), schema)


def listed(df: DataFrame, *order: str) -> list[dict[str, Any]]:
    """The rows of a frame as Python values, sorted by some columns."""
    rows = df.toArrow().to_pylist()
    return sorted(rows, key=lambda row: tuple(row[name] for name in order))


def column(df: DataFrame, name: str, *order: str) -> list[Any]:
    """One column's values, rows sorted by some columns."""
    return [row[name] for row in listed(df, *order)]


def by(df: DataFrame, key: str, *names: str) -> dict[Any, Any]:
    """Values of some columns by another: one value alone, several as a tuple."""
    found = {}
    for row in df.toArrow().to_pylist():
        values = tuple(row[name] for name in names)
        found[row[key]] = values[0] if len(names) == 1 else values
    assert len(found) == df.count(), f"{key} is no key"
    return found


def utc(day: int, hour: int = 0, minute: int = 0, second: int = 0, micro: int = 0) -> datetime:
    """A moment of March 2024."""
    return datetime(2024, 3, day, hour, minute, second, micro, tzinfo=UTC)


def micros(moments: Iterable[datetime | None]) -> list[int | None]:
    """Microseconds since 1970."""
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        None
        if moment is None
        else (moment - start).days * 86_400_000_000
        + (moment - start).seconds * 1_000_000
        + (moment - start).microseconds
        for moment in moments
    ]
