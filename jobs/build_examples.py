"""Join each impression with its features, its labels and the place where its history ends.

Reads `impressions`, `labels`, `timelines`, `entity_features`, `events` and attributes. Writes
`examples`, one commit per day of impression. Of a touched day that only waits for its labels to
mature, the stored rows get their new labels; everything else is made anew. Guarantees: nothing
known at or after an impression is in its features or its history; a missing day of features is an
error, never a count of zero.

    python -m jobs.build_examples --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from jobs import delta
from jobs.build_features import TABLE as FEATURES
from jobs.build_features import counted_events
from jobs.command import JobSummary, log, main
from jobs.config import RunConfig
from jobs.days import arrival_days
from jobs.settled import settled_days
from jobs.spark.buckets import PACKED, gathered, num_buckets
from jobs.spark.build import Build, merged
from jobs.spark.counting import Counting
from jobs.spark.examples import (
    by_impression,
    example_batches,
    example_columns,
    label_columns,
    relabelling,
    shown_rows,
)
from jobs.spark.history_ends import (
    SHOWN_COLUMNS,
    TIMELINE_COLUMNS,
    history_ends,
    packed_shown,
    packed_timelines,
)
from jobs.spark.impression_counts import (
    before_columns,
    counts_by_impression,
    packed_before,
    packed_increments,
    packed_queries,
)
from jobs.spark.scans import ColumnsFunction, shuffle_partitions
from jobs.spark.session import spark_session

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

_PACKED = ", ".join(f"{name} {kind}" for name, kind in PACKED.items())
_INPUTS = ("impressions", "labels", "timelines", FEATURES, "events")


def run(config: RunConfig) -> JobSummary:
    """Build examples in a session of its own."""
    with spark_session(config.resources, config.home, "build_examples") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build examples in a given session."""
    tables = Build(config, spark, "examples")
    settled = settled_days(config, "examples", _INPUTS, besides=["labels"])
    matured = _with_new_labels(tables, settled)
    anew = [day for day in tables.shown_days if day not in settled]
    if settled:
        log.info(
            "examples: %d days anew, %d with new labels, %d as they are",
            len(anew),
            len(matured),
            len(settled) - len(matured),
        )
    if not anew and not matured:
        return tables.unchanged("examples", settled, "build_examples")
    parts = []
    if matured:
        parts.append(_label_again(tables, matured))
    if anew:
        parts.append(_make(tables, anew))
    done = merged("build_examples", parts)
    return replace(done, rows={"examples": sum(part.rows["examples"] for part in parts)})


def _with_new_labels(
    tables: Build, settled: Mapping[date, dict[str, int | None]]
) -> dict[date, dict[str, int | None]]:
    """Of settled days those whose labels have changed, with what their rows are then made from."""
    now = tables.inputs.setdefault("labels", tables.version("labels"))
    written = delta.live_versions(delta.open_table(tables.config.table("labels"), now))
    return {
        day: {**inputs, "labels": now}
        for day, inputs in settled.items()
        if day not in written or written[day] > (inputs["labels"] or 0)
    }


def _label_again(tables: Build, matured: Mapping[date, dict[str, int | None]]) -> JobSummary:
    config, days = tables.config, sorted(matured)
    # The examples read are not among the inputs: what the other days are made of is read anew.
    uris = config.table("examples"), config.table("labels")
    again = relabelling(tables.spark, *uris, days, tables.contract, tables.inputs)
    return tables.write_columns(
        "examples",
        again.tasks,
        again.function,
        again.columns,
        days,
        "build_examples",
        made_from=matured,
    )


def _make(tables: Build, days: Sequence[date]) -> JobSummary:
    shown = shown_impressions(tables, days).persist()
    done = tables.write_columns(
        "examples",
        packed_examples(tables, shown, days),
        example_batches(Counting.of(tables.contract.features), tables.contract),
        example_columns(tables.contract),
        days,
        "build_examples",
    )
    shown.unpersist()
    return done


def shown_impressions(tables: Build, days: Sequence[date]) -> DataFrame:
    """Impressions of touched days with their attributes; `day` is the day shown."""
    from pyspark.sql import functions as F

    shown = tables.impressions(days).withColumn("day", F.col("event_day"))
    for entity, on in (("user", "user_id"), ("ad", "ad_id")):
        shown = tables.with_attributes(shown, entity, on, "event_ts")
    return shown


def packed_examples(tables: Build, shown: DataFrame, days: Sequence[date]) -> DataFrame:
    """Everything that is known of the impressions of days, ready for `example_batches`.

    Args:
        tables: What is being built.
        shown: As `shown_impressions` gives them.
        days: The days, in order.
    """
    contract, partitions = tables.contract, shuffle_partitions(tables.spark)
    # As many buckets over all days as other tables have: packs by the thousand cost more than rows.
    buckets = max(1, num_buckets(partitions) // len(days))
    pack = by_impression(days, buckets)
    labels = ["impression_id", *label_columns(contract), "day"]
    known = shown_rows(shown, contract).mapInArrow(pack, _PACKED)
    for other in (
        tables.map_columns("labels", days, labels, pack, PACKED),
        _counts(tables, shown, days, buckets),
        _history_ends(tables, days, pack),
    ):
        known = known.unionByName(other)
    return gathered(known, partitions)


def _counts(tables: Build, shown: DataFrame, days: Sequence[date], of_a_day: int) -> DataFrame:
    """Counts packed by impression, in so many buckets of a day."""
    counting = Counting.of(tables.contract.features)
    partitions = shuffle_partitions(tables.spark)
    buckets = num_buckets(partitions)
    day_before = [day - timedelta(days=1) for day in days]
    tables.require(FEATURES, day_before)

    def increments(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_increments(batches, counting, buckets)

    def queries(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_queries(batches, counting, buckets)

    def before(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_before(batches, counting, buckets)

    asked = shown.select("impression_id", "day", "event_ts", *counting.key_columns)
    packed = [
        counted_events(tables, counting, list(days)).mapInArrow(increments, _PACKED),
        asked.mapInArrow(queries, _PACKED),
        tables.map_columns(FEATURES, day_before, before_columns(counting), before, PACKED),
    ]
    return counts_by_impression(packed, counting, days, of_a_day, partitions)


def _history_ends(tables: Build, days: Sequence[date], then: ColumnsFunction) -> DataFrame:
    partitions = shuffle_partitions(tables.spark)
    buckets = num_buckets(partitions)

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_timelines(batches, buckets)

    def ask(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_shown(batches, days, buckets)

    timelines = tables.map_columns("timelines", days, TIMELINE_COLUMNS, pack, PACKED)
    arrived = arrival_days(tables.config, days)
    shown = tables.map_columns("impressions", arrived, SHOWN_COLUMNS, ask, PACKED)
    return history_ends(timelines, shown, partitions, then, PACKED)


if __name__ == "__main__":
    main(run, __doc__)
