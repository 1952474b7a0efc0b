"""Point-in-time counts: how often something was seen with an entity before an impression.

Days before the impression's come from the daily tables of the entity (`<entity>_features`); the
impression's own day is counted to the microsecond from its events. Both go by `known_ts`: what was
not known before the impression does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def event_counts(events: DataFrame, counts: Mapping[str, Sequence[str]]) -> DataFrame:
    """Add a 0/1 column per count to events that some count counts.

    Args:
        events: Events with the key columns of every entity.
        counts: Event types by the count's name.
    """
    from pyspark.sql import functions as F

    wanted = sorted({t for types in counts.values() for t in types})
    ones = {
        name: F.col("event_type").isin(list(types)).cast("bigint") for name, types in counts.items()
    }
    return events.where(F.col("event_type").isin(wanted)).withColumns(ones)


def daily_counts(counted: DataFrame, key: Sequence[str], counts: Sequence[str]) -> DataFrame:
    """One entity's counts per arrival day."""
    from pyspark.sql import functions as F

    return (
        _with_key(counted, key)
        .groupBy(*key, "day")
        .agg(*[F.sum(count).alias(f"{count}_1d") for count in counts])
    )


def rolled_up(
    partials: DataFrame,
    key: Sequence[str],
    counts: Sequence[str],
    windows_days: Sequence[int],
    days: Sequence[date],
) -> DataFrame:
    """An entity's counts over the last days, as of the end of each day.

    Args:
        partials: Key columns, `day` and `<count>_1d`, for the longest window before `days` too.
        key: Key columns.
        counts: Names of the counts.
        windows_days: Windows in days.
        days: Days to produce.

    Returns:
        The columns of `validation.tables.entity_features`; a row per entity seen in the window.
    """
    from pyspark.sql import functions as F

    longest = max(windows_days)
    spark = partials.sparkSession
    wanted = spark.createDataFrame([(day,) for day in days], "as_of date")
    age = F.date_diff("as_of", "day")
    spread = partials.join(F.broadcast(wanted), on=(age >= 0) & (age < longest), how="inner")
    sums = [
        F.sum(F.when(age < window, F.col(f"{count}_1d"))).alias(f"{count}_{window}d")
        for count in counts
        for window in windows_days
    ]
    named = tables.count_columns(counts, windows_days)
    grouped = spread.groupBy(*key, F.col("as_of")).agg(*sums)
    filled = [F.coalesce(F.col(name), F.lit(0).cast("bigint")).alias(name) for name in named]
    return grouped.select(*key, *filled, F.col("as_of").alias("day"))


def counts_at_impressions(
    impressions: DataFrame,
    counted: DataFrame,
    daily: DataFrame,
    entity: str,
    key: Sequence[str],
    counts: Sequence[str],
    windows_days: Sequence[int],
) -> DataFrame:
    """An entity's counts as known strictly before each impression.

    Args:
        impressions: `impression_id`, `event_ts`, `day` (the day shown) and the key columns.
        counted: Events with count columns; `day` is the day on which they became known.
        daily: The entity's table, as of the end of each day.
        entity: The entity's name, the prefix of the columns.
        key: Key columns.
        counts: Names of the counts.
        windows_days: Windows in days; each also covers the impression's own day so far.

    Returns:
        `impression_id` and `<entity>_<count>_<window>d`.
    """
    from pyspark.sql import functions as F

    today = today_counts(impressions, counted, key, counts)
    before = daily.withColumn("day", F.date_add("day", 1))
    joined = today.join(before, on=[*key, "day"], how="left")
    zero = F.lit(0).cast("bigint")
    totals = [
        (F.col(f"{count}_today") + F.coalesce(F.col(f"{count}_{window}d"), zero)).alias(
            f"{entity}_{count}_{window}d"
        )
        for count in counts
        for window in windows_days
    ]
    return joined.select("impression_id", *totals)


def today_counts(
    impressions: DataFrame, counted: DataFrame, key: Sequence[str], counts: Sequence[str]
) -> DataFrame:
    """Counts over the impression's own day of events known strictly before it.

    Returns:
        `impression_id`, the key, `day` and `<count>_today`.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    queries = _with_key(impressions, key).select(
        *key,
        "day",
        F.unix_micros("event_ts").alias("at"),
        "impression_id",
        *[F.lit(0).cast("bigint").alias(count) for count in counts],
    )
    increments = _with_key(counted, key).select(
        *key,
        "day",
        F.unix_micros("known_ts").alias("at"),
        F.lit(None).cast("string").alias("impression_id"),
        *counts,
    )
    # By value of time, not by row: what became known in the impression's own microsecond is out.
    earlier = (
        Window.partitionBy(*key, "day").orderBy("at").rangeBetween(Window.unboundedPreceding, -1)
    )
    so_far: list[Column] = [
        F.coalesce(F.sum(count).over(earlier), F.lit(0).cast("bigint")).alias(f"{count}_today")
        for count in counts
    ]
    both = queries.unionByName(increments)
    seen = both.select("impression_id", *key, "day", *so_far)
    return seen.where(F.col("impression_id").isNotNull())


def _with_key(df: DataFrame, key: Sequence[str]) -> DataFrame:
    """Missing parts of a key as the empty text, so that they join and group as a value."""
    from pyspark.sql import functions as F

    return df.withColumns({name: F.coalesce(F.col(name), F.lit("")) for name in key})


def with_attributes(
    rows: DataFrame, attributes: DataFrame, on: str, at: str, names: Sequence[str]
) -> DataFrame:
    """Attributes of a user or ad as known strictly before a moment.

    Args:
        rows: Rows with the columns `on` and `at` and a unique `row_id`.
        attributes: `entity_id`, `known_ts` and the attributes.
        on: Column of `rows` with the entity's id.
        at: Column of `rows` with the moment.
        names: Attributes to add.
    """
    from pyspark.sql import functions as F

    states = attributes.groupBy("entity_id").agg(
        F.array_sort(F.collect_list(F.struct("known_ts", *names))).alias("states")
    )
    joined = rows.join(states, on=F.col(on) == F.col("entity_id"), how="left")
    known = F.filter("states", lambda state: state["known_ts"] < F.col(at))
    last = F.try_element_at(known, F.lit(-1))
    return joined.withColumns({name: last[name] for name in names}).drop("states", "entity_id")
