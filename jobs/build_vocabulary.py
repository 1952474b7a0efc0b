"""Admit new values to the vocabulary, and evict those out of use where the contract says so.

Reads `events` and `examples` of the run's arrival days and of the days before, as far as a first
run reaches back. Writes `vocabulary`. Guarantees: only rows known before the gate window count;
a value keeps its row for ever, though it may be out of vocabulary for a time where the contract
evicts; a repeat changes nothing.

    python -m jobs.build_vocabulary --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, log, main
from jobs.config import RunConfig, day_of, days_between
from jobs.spark.build import Build
from jobs.spark.seen_values import SEEN, seen_values
from jobs.spark.session import spark_session
from jobs.vocabulary import EVENT_TYPE, admit, fields

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build the vocabulary in a session of its own."""
    with spark_session(config.resources, config.home, "build_vocabulary") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build the vocabulary in a given session."""
    from pyspark.sql import functions as F

    tables = Build(config, spark)
    first = config.plan.day - timedelta(days=config.windows.bootstrap_days)
    lately = eviction_days(config)
    days = days_between(min([first, *lately.values()]), config.plan.day)
    features = config.contract.features
    examples = {name: name for name in features.categorical}
    events = {"ad_id": "item_id", "surface": "surface", EVENT_TYPE: EVENT_TYPE}
    types = {EVENT_TYPE: config.contract.timeline_event_types}
    values = _seen(tables, "examples", days, examples, features.bags, {})
    values = values.unionByName(_seen(tables, "events", days, events, [], types))
    counted = F.sum(F.when(F.col("day") >= F.lit(first), F.col("num")).otherwise(0))
    rows = values.groupBy("field", "value").agg(
        counted.alias("count"), F.max("day").alias("last_day")
    )
    rows = rows.toArrow().to_pylist()
    seen_lately = {
        field: {r["value"] for r in rows if r["field"] == field and r["last_day"] >= since}
        for field, since in lately.items()
    }
    done = admit(
        config.table("vocabulary"),
        [(row["field"], row["value"], row["count"]) for row in rows],
        config.contract,
        config.run.run_id,
        seen_lately,
    )
    log.info("vocabulary: %d values admitted, %d evicted", done.admitted, done.evicted)
    return JobSummary(
        job="build_vocabulary",
        inputs=dict(tables.inputs),
        outputs={"vocabulary": done.version},
        rows={"vocabulary": done.admitted},
        details={"evicted": done.evicted},
    )


def eviction_days(config: RunConfig) -> dict[str, date]:
    """From which day on a value must have been seen to keep its row, by field where it must.

    A log that does not reach back so far evicts nothing, and neither does a backfill: it has not
    seen what later days have brought.
    """
    held = delta.partition_days(delta.open_table(config.table("events")))
    if not held or held[-1] > config.plan.day:
        return {}
    judged_from = day_of(config.plan.gate_start, config.contract.time_zone)
    found = {}
    for field in fields(config.contract):
        days = config.contract.vocabulary_rule(field).evict_after_days
        if days is not None and held[0] <= judged_from - timedelta(days=days):
            found[field] = judged_from - timedelta(days=days)
    return found


def _seen(
    tables: Build,
    table: str,
    days: list[date],
    columns: Mapping[str, str],
    bags: Collection[str],
    within: Mapping[str, Collection[str]],
) -> DataFrame:
    """Values of a table's rows that were known before the gate window, as `seen_values` counts."""
    cut_off = tables.config.plan.gate_start
    tables.require_any(table)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return seen_values(batches, columns, bags, cut_off, within)

    read = [*dict.fromkeys([*columns.values(), *bags, *within, "known_ts", "day"])]
    return tables.map_columns(table, days, read, count, SEEN)


if __name__ == "__main__":
    main(run, __doc__)
