"""Admit new values to the vocabulary, and evict those out of use where the contract says so.

Reads `events` and `examples` of the run's arrival days and of the days before, as far as a first
run reaches back. Writes `vocabulary`. Guarantees: only rows known before the gate window count;
a value keeps its row for ever, though it may be out of vocabulary for a time where the contract
evicts; a repeat changes nothing.

    python -m jobs.build_vocabulary --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, log, main
from jobs.config import RunConfig, day_of, days_between
from jobs.spark.build import Build
from jobs.spark.session import spark_session
from jobs.vocabulary import EVENT_TYPE, admit, fields

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


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
    cut_off = F.lit(config.plan.gate_start)
    examples = tables.read("examples", days).where(F.col("known_ts") < cut_off)
    events = tables.read("events", days).where(F.col("known_ts") < cut_off)
    events = events.where(F.col("event_type").isin(config.contract.timeline_event_types))
    features = config.contract.features
    of_events = {"ad_id": "item_id", "surface": "surface", EVENT_TYPE: EVENT_TYPE}
    values = _values(examples, {name: name for name in features.categorical}, features.bags)
    values = values.unionByName(_values(events, of_events))
    counted = F.count_if(F.col("day") >= F.lit(first)).alias("count")
    seen = values.where(F.col("value").isNotNull()).groupBy("field", "value")
    rows = seen.agg(counted, F.max("day").alias("last_day")).toArrow().to_pylist()
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


def _values(rows: DataFrame, columns: Mapping[str, str], bags: Iterable[str] = ()) -> DataFrame:
    """Every value that a row has, with its field and the row's day.

    Args:
        rows: Examples or events.
        columns: Their columns by field.
        bags: Columns of several values, fields themselves; a value counts once for a row.
    """
    from pyspark.sql import functions as F

    def pair(field: str, value: Column) -> Column:
        return F.struct(F.lit(field).alias("field"), value.cast("string").alias("value"))

    # One pass over the rows for all fields: a pass each takes longer.
    found = [F.array(*[pair(field, F.col(column)) for field, column in columns.items()])]
    for bag in bags:
        held = F.coalesce(F.col(bag), F.array().cast("array<string>"))
        found.append(F.transform(F.array_distinct(held), partial(pair, bag)))
    return rows.select("day", F.explode(F.concat(*found)).alias("pair")).select("day", "pair.*")


if __name__ == "__main__":
    main(run, __doc__)
