"""Examples: one impression with its features, its labels and where its history ends, in columns.

Everything that is known of an impression is packed by its day and by bucket of its id; where the
packs meet, columns are laid side by side and written. An example has hundreds of columns, which as
rows would cost more to move and to sort than all of their counting.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.contract import BASE_FEATURE_COLUMNS, LogContract
from jobs.parquet_files import files_dataset
from jobs.spark.buckets import by_day, chunks, each_bucket
from jobs.spark.counting import Counting
from jobs.spark.history_ends import ENDS
from jobs.spark.impression_counts import bucket_rows, count_columns
from jobs.spark.scans import ColumnsFunction, scan_days
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def shown_rows(impressions: DataFrame, contract: LogContract) -> DataFrame:
    """What an example has of its impression alone.

    Args:
        impressions: Impressions with attributes; `day` is the day shown.
        contract: Says which columns are features.

    Returns:
        Columns `shown_columns`.
    """
    from pyspark.sql import functions as F

    places = contract.surface_vertical
    domain = F.create_map(*[F.lit(x) for s, (d, _) in places.items() for x in (s, d)])
    vertical = F.create_map(*[F.lit(x) for s, (_, v) in places.items() for x in (s, v)])
    rows = impressions.withColumns(
        {
            "hour": F.hour(F.from_utc_timestamp("event_ts", contract.time_zone)).cast("string"),
            "domain": domain[F.col("surface")],
            "vertical": vertical[F.col("surface")],
        }
    )
    columns = shown_columns(contract).items()
    return rows.selectExpr(*[f"CAST(`{name}` AS {kind}) AS `{name}`" for name, kind in columns])


def by_impression(days: Sequence[date], buckets: int) -> ColumnsFunction:
    """What packs rows with `impression_id` and `day` by both, for `example_batches`.

    Args:
        days: Days, in order.
        buckets: Buckets over which a day's impressions are spread.
    """

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in chunks(batches):
            yield from by_day(rows, days, buckets)

    return pack


def example_batches(counting: Counting, contract: LogContract) -> ColumnsFunction:
    """What lays side by side everything that is known of the impressions of a bucket.

    Args:
        counting: What is counted.
        contract: Says which columns are features.

    Returns:
        A function from packed rows, every bucket's together, to the examples table's columns. They
        are columns `shown_columns`, rows of the labels table, columns `ENDS`, and counts as
        `counts_by_impression` packs them. An impression that lacks one of them is left out.
    """
    columns = list(example_columns(contract))

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return each_bucket(batches, lambda parts: _bucket_examples(parts, counting, columns))

    return build


def _bucket_examples(
    parts: Sequence[pa.Table], counting: Counting, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    sides: dict[str, list[pa.Table]] = {"shown": [], "ends": [], "counts": [], "labels": []}
    for part in parts:
        sides[_side(part)].append(part)
    if not all(sides.values()):
        return
    shown = pa.concat_tables(sides["shown"])
    ids = _texts(shown["impression_id"])
    counts = pa.Table.from_batches(bucket_rows(sides["counts"], counting))
    others = [counts, *(pa.concat_tables(sides[name]) for name in ("ends", "labels"))]
    places = [pc.index_in(ids, value_set=_texts(other["impression_id"])) for other in others]
    met = pc.and_(pc.and_(*[pc.is_valid(place) for place in places[:2]]), places[2].is_valid())
    order = pa.table({"event_ts": shown["event_ts"], "impression_id": ids})
    order = pc.sort_indices(order, [(name, "ascending") for name in order.column_names])
    order = order.filter(met.take(order))
    found = shown.set_column(shown.schema.get_field_index("impression_id"), "impression_id", ids)
    taken = {name: found[name].take(order) for name in found.column_names}
    for other, place in zip(others, places, strict=True):
        own = place.take(order)
        taken |= {n: other[n].take(own) for n in other.column_names if n not in taken}
    if len(order):
        yield from pa.table({name: taken[name] for name in columns}).combine_chunks().to_batches()


def _side(part: pa.Table) -> str:
    """Of what a packed table tells."""
    if "entity" in part.column_names:
        return "counts"
    if "history_end" in part.column_names:
        return "ends"
    return "shown" if "surface" in part.column_names else "labels"


def _texts(column: pa.ChunkedArray) -> pa.Array:
    return column.cast(pa.string()).combine_chunks()


@dataclass(frozen=True)
class Relabelling:
    """How workers write stored examples again, with the labels that the labels table now holds."""

    tasks: DataFrame
    """What the function is given."""
    function: ColumnsFunction
    columns: tables.Columns
    """Of what it makes."""


def relabelling(
    spark: SparkSession,
    examples: str,
    labels: str,
    days: Sequence[date],
    contract: LogContract,
    versions: Mapping[str, int | None],
) -> Relabelling:
    """Write days of examples again with other labels; nothing else of them changes.

    Args:
        spark: Session.
        examples: The examples table.
        labels: The labels table, which holds all of these impressions.
        days: Days.
        contract: Says which columns are labels.
        versions: Versions of both to read; the newest of one that is left out.
    """
    scan = scan_days(spark, examples, days, version=versions.get("examples"))
    held = delta.open_table(examples, versions.get("examples"))
    assert held is not None, "only stored examples are labelled again"
    stored = pa.schema(held.schema()).names
    columns = {n: kind for n, kind in example_columns(contract).items() if n in stored}
    names = [name for name in label_columns(contract) if name in columns]
    table = delta.open_table(labels, versions.get("labels"))
    assert table is not None, "labels come before examples"
    schema, files = pa.schema(table.schema()), {d: delta.day_files(table, [d]) for d in days}

    def of_day(day: date) -> pa.Table:
        # Files, not the table: a forked worker cannot open one.
        found = files_dataset(files[day], schema, f"{labels}/data")
        return found.to_table(columns=["impression_id", *names], use_threads=False)

    def label(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return with_labels(batches, list(columns), of_day)

    return Relabelling(scan.tasks, scan.then(label), columns)


def with_labels(
    batches: Iterable[pa.RecordBatch],
    columns: Sequence[str],
    labels: Callable[[date], pa.Table],
) -> Iterator[pa.RecordBatch]:
    """Examples as they are, with other labels.

    Args:
        batches: Rows of the examples table, each batch of one day.
        columns: The table's columns.
        labels: Gives `impression_id` and the new labels of a day, of all of its impressions.
    """
    held = cache(labels)
    for batch in batches:
        if batch.num_rows == 0:
            continue
        new = held(batch.column("day")[0].as_py())
        place = pc.index_in(batch.column("impression_id"), value_set=_texts(new["impression_id"]))
        rows = pa.table(
            {
                name: new[name].take(place)
                if name in new.column_names and name != "impression_id"
                else batch.column(name)
                for name in columns
            }
        )
        yield from rows.filter(place.is_valid()).combine_chunks().to_batches()


def example_columns(contract: LogContract) -> tables.Columns:
    """Columns of the examples table under a contract."""
    features = contract.features
    return tables.examples(
        [name for name in features.categorical if name not in BASE_FEATURE_COLUMNS],
        features.numeric,
        count_feature_names(contract),
        list(contract.tasks),
        tables.recency_columns(features.recency),
        zippers=contract.zipper_tasks,
        bags=features.bags,
    )


def label_columns(contract: LogContract) -> tables.Columns:
    """Those of them that are labels."""
    return tables.label_columns(list(contract.tasks), contract.zipper_tasks)


def shown_columns(contract: LogContract) -> tables.Columns:
    """Those of them that an impression tells by itself."""
    counts = count_columns(Counting.of(contract.features))
    joined = {*label_columns(contract), *counts, *ENDS} - {"impression_id", "day"}
    return {name: kind for name, kind in example_columns(contract).items() if name not in joined}


def count_feature_names(contract: LogContract) -> list[str]:
    """Names of all counts: `<entity>_<count>_<window>d`."""
    features = contract.features
    return [
        f"{entity}_{name}"
        for entity in features.entities
        for name in tables.count_columns(list(features.counts), features.windows_days)
    ]
