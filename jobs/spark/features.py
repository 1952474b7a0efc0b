"""Point-in-time counts: how often something was seen with an entity before an impression, and when
it was seen last.

An entity is what counts are kept of: a user, an ad, a surface, a cross of them. Days before the
impression's come from `entity_features`; the impression's own day is counted to the microsecond
from its events. Both go by `known_ts`: what was not known before the impression does not count.
All entities go through one shuffle, as rows of (entity, key).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING

from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Entities = Mapping[str, Sequence[str]]
"""Key columns by the entity's name."""


def event_counts(events: DataFrame, counts: Mapping[str, Sequence[str]]) -> DataFrame:
    """Add a 0/1 column per count to events that some count counts.

    Args:
        events: Events.
        counts: Event types by the count's name.
    """
    from pyspark.sql import functions as F

    wanted = sorted({t for types in counts.values() for t in types})
    ones = {
        name: F.col("event_type").isin(list(types)).cast("bigint") for name, types in counts.items()
    }
    return events.where(F.col("event_type").isin(wanted)).withColumns(ones)


def by_entity(rows: DataFrame, entities: Entities, kept: Sequence[str]) -> DataFrame:
    """Each row once per entity: columns `entity`, `key` and the kept ones.

    Missing parts of a key are the empty text, so that they group and join as a value.
    """
    from pyspark.sql import functions as F

    keys = [
        F.struct(
            F.lit(entity).alias("entity"),
            F.concat_ws("\u0001", *[F.coalesce(F.col(c), F.lit("")) for c in key]).alias("key"),
        )
        for entity, key in entities.items()
    ]
    return rows.select(F.explode(F.array(*keys)).alias("of"), *kept).select("of.*", *kept)


def daily_counts(
    counted: DataFrame, counts: Sequence[str], recency: Iterable[str] = ()
) -> DataFrame:
    """Counts per entity, key and arrival day, and when the last event of some became known."""
    from pyspark.sql import functions as F

    sums = [F.sum(count).alias(f"{count}_1d") for count in counts]
    lasts = [
        F.max(F.when(F.col(count) > 0, F.col("known_ts"))).alias(f"{count}_last_ts")
        for count in recency
    ]
    return counted.groupBy("entity", "key", "day").agg(*sums, *lasts)


def rolled_up(
    partials: DataFrame,
    counts: Sequence[str],
    windows_days: Sequence[int],
    days: Sequence[date],
    recency: Sequence[str] = (),
) -> DataFrame:
    """Counts over the last days, as of the end of each day.

    Args:
        partials: `entity`, `key`, `day`, `<count>_1d` and, of counts in `recency`,
            `<count>_last_ts`; for the longest window before `days` too.
        counts: Names of the counts.
        windows_days: Windows in days; 1 is among them.
        days: Days to produce.
        recency: Counts of which the moment of the last event is kept.

    Returns:
        The entity_features table's columns; a row per entity seen in the longest window.
    """
    from pyspark.sql import functions as F

    longest = max(windows_days)
    # A stored day also holds who was seen before it; counted on, they would never be forgotten.
    seen = partials.where(F.greatest(F.lit(0), *[F.col(f"{count}_1d") for count in counts]) > 0)
    wanted = partials.sparkSession.createDataFrame([(day,) for day in days], "as_of date")
    age = F.date_diff("as_of", "day")
    spread = seen.join(F.broadcast(wanted), on=(age >= 0) & (age < longest), how="inner")
    zero = F.lit(0).cast("bigint")
    sums = [
        F.sum(F.when(age < window, F.col(f"{count}_1d")).otherwise(zero)).alias(
            f"{count}_{window}d"
        )
        for count in counts
        for window in windows_days
    ]
    # A stored moment looks back over a window; it is of its day where that day counted anything.
    lasts = [
        F.max(F.when(F.col(f"{count}_1d") > 0, F.col(f"{count}_last_ts"))).alias(f"{count}_last_ts")
        for count in recency
    ]
    grouped = spread.groupBy("entity", "key", F.col("as_of").alias("day")).agg(*sums, *lasts)
    return grouped.select(*tables.entity_features(counts, windows_days, recency))


def today_counts(
    impressions: DataFrame,
    counted: DataFrame,
    counts: Sequence[str],
    recency: Iterable[str] = (),
) -> DataFrame:
    """Counts over the impression's own day of events known strictly before it.

    Args:
        impressions: `entity`, `key`, `day` (shown), `event_ts`, `impression_id`.
        counted: `entity`, `key`, `day` (known), `known_ts` and the counts.
        counts: Names of the counts.
        recency: Counts of which the moment of the last event is wanted.

    Returns:
        `impression_id`, `entity`, `key`, `day`, `<count>_today` and, of counts in `recency`,
        `<count>_last_us`: microseconds since 1970, missing where there was none today.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    zero = F.lit(0).cast("bigint")
    queries = impressions.select(
        "entity",
        "key",
        "day",
        F.unix_micros("event_ts").alias("at"),
        "impression_id",
        *[zero.alias(count) for count in counts],
    )
    increments = counted.select(
        "entity",
        "key",
        "day",
        F.unix_micros("known_ts").alias("at"),
        F.lit(None).cast("string").alias("impression_id"),
        *counts,
    )
    # The hash comes first because rows are sorted by the first eight bytes of a text, which many
    # keys share: 1.6 times faster. The key itself still decides.
    group = F.xxhash64("entity", "key", "day").alias("group")
    same = Window.partitionBy("group", "entity", "key", "day").orderBy("at")
    # By value of time, not by row: what became known in the impression's own microsecond is out.
    earlier = same.rangeBetween(Window.unboundedPreceding, -1)
    so_far: list[Column] = [
        F.coalesce(F.sum(count).over(earlier), zero).alias(f"{count}_today") for count in counts
    ]
    so_far += [
        F.max(F.when(F.col(count) > 0, F.col("at"))).over(earlier).alias(f"{count}_last_us")
        for count in recency
    ]
    both = queries.unionByName(increments).select("*", group)
    seen = both.select("impression_id", "entity", "key", "day", *so_far)
    return seen.where(F.col("impression_id").isNotNull())


def counts_at_impressions(
    today: DataFrame,
    daily: DataFrame,
    entities: Entities,
    counts: Sequence[str],
    windows_days: Sequence[int],
    recency: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> DataFrame:
    """Counts of every entity as known strictly before each impression.

    Args:
        today: As `today_counts` returns them.
        daily: The entity_features table, as of the end of each day.
        entities: The entities.
        counts: Names of the counts.
        windows_days: Windows in days; each also covers the impression's own day so far.
        recency: Entities, by count, of which the moment of the last event is wanted.

    Returns:
        `impression_id`, `<entity>_<count>_<window>d` and `<entity>_<count>_last_ts`, which is
        missing where the longest window holds no event.
    """
    from pyspark.sql import functions as F

    before = daily.withColumn("day", F.date_add("day", 1))
    joined = today.join(before, on=["entity", "key", "day"], how="left")
    zero = F.lit(0).cast("bigint")
    names = [(count, window) for count in counts for window in windows_days]
    # Any moment of today is later than any of the days before.
    lasts = [F.coalesce(f"{c}_last_us", F.unix_micros(f"{c}_last_ts")) for c in recency]
    totals = F.array(
        *[F.col(f"{c}_today") + F.coalesce(F.col(f"{c}_{w}d"), zero) for c, w in names], *lasts
    )
    listed = F.map_from_entries(F.collect_list(F.struct("entity", totals.alias("totals"))))
    rows = joined.groupBy("impression_id").agg(listed.alias("of"))
    rows = rows.selectExpr("impression_id", *[f"of['{name}'] AS of_{name}" for name in entities])
    # As text, for every column object is a round trip to the JVM.
    columns = [
        f"of_{entity}[{i}] AS `{entity}_{count}_{window}d`"
        for entity in entities
        for i, (count, window) in enumerate(names)
    ]
    columns += [
        f"timestamp_micros(of_{entity}[{i}]) AS `{entity}_{count}_last_ts`"
        for i, count in enumerate(recency, start=len(names))
        for entity in recency[count]
    ]
    return rows.selectExpr("impression_id", *columns)


def with_attributes(
    rows: DataFrame, attributes: DataFrame, on: str, at: str, names: Sequence[str]
) -> DataFrame:
    """Attributes of a user or ad as known strictly before a moment.

    Args:
        rows: Rows with the columns `on` and `at`.
        attributes: `entity_id`, `known_ts` and the attributes.
        on: Column of `rows` with the entity's id.
        at: Column of `rows` with the moment.
        names: Attributes to add.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # A daily listing repeats itself: of a run of equal states only the first says anything.
    state = F.struct("known_ts", *[F.col(name).alias(f"_{name}") for name in names])
    in_order = Window.partitionBy("entity_id").orderBy("known_ts", *names)
    same = [F.col(name).eqNullSafe(F.lag(name).over(in_order)) for name in names]
    repeated = reduce(lambda a, b: a & b, same, F.lag("known_ts").over(in_order).isNotNull())
    changes = attributes.withColumn("_repeated", repeated).where(~F.col("_repeated"))
    states = changes.groupBy("entity_id").agg(F.array_sort(F.collect_list(state)).alias("_states"))
    joined = rows.join(states, on=F.col(on) == F.col("entity_id"), how="left")
    known = F.filter("_states", lambda one: one["known_ts"] < F.col(at))
    last = F.try_element_at(known, F.lit(-1))
    return joined.withColumns({name: last[f"_{name}"] for name in names}).drop(
        "_states", "entity_id"
    )
