"""Raw rows to events, impressions, outcomes and attributes: pure transforms of one feed each.

A feed's rows are judged first (`judge_*`, see `jobs.spark.verdicts`); what is accepted becomes rows
of a table. Ids of outcomes and events begin with their feed's name, for feeds may number their rows
alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

from jobs.contract import LogContract
from jobs.errors import ConfigError
from jobs.feeds import (
    IMPRESSION,
    AttributesFeed,
    EventsFeed,
    ImpressionsFeed,
    OutcomesFeed,
    SequencesFeed,
)
from jobs.feeds import Column as ColumnSource
from jobs.spark.raw import (
    FOLDER_DAY,
    column,
    day_start,
    local_day,
    time_column,
)
from jobs.spark.verdicts import (
    OK,
    UNKNOWN_SURFACE,
    UNREADABLE_TIME,
    not_before_folder,
    row_faults,
    time_faults,
    value_fault,
    with_raw,
    with_times,
    with_verdict,
)
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def context_types(contract: LogContract) -> dict[str, str]:
    """Spark type of every context column: a number or a list where features read it so, or text."""
    features = contract.features
    types = dict.fromkeys(features.numeric, "double") | dict.fromkeys(features.bags, LIST)
    return {name: types.get(name, "string") for name in contract.impressions.context}


LIST = "array<string>"
"""Spark type of a column with any number of values."""


def _feature(raw: DataFrame, source: ColumnSource, kind: str, place: str) -> Column:
    """A column of a feature in its type.

    Raises:
        ConfigError: A list is asked for, and the raw column is none.
    """
    found = column(source)
    if kind == LIST:
        made = raw.select(found).schema[0].dataType.simpleString()
        if not made.startswith("array<"):
            raise ConfigError(
                f"{place}: features.bags are made of lists; found {made}; split it, such as "
                "{expr: \"split(tags, ',')\"}, or read it as categorical"
            )
    return found.cast(kind)


def judge(raw: DataFrame, name: str, contract: LogContract, max_late_days: int) -> DataFrame:
    """A feed's rows, each with a verdict.

    Args:
        raw: Its rows as `read_feed` returns them.
        name: Its name.
        contract: The log's contract.
        max_late_days: Days after which an impression is too late.
    """
    feed = contract.feeds[name]
    if isinstance(feed, ImpressionsFeed):
        return judge_impressions(raw, contract, max_late_days)
    if isinstance(feed, OutcomesFeed):
        return judge_outcomes(raw, name, feed, contract)
    if isinstance(feed, EventsFeed):
        return judge_events(raw, name, feed, contract)
    if isinstance(feed, SequencesFeed):
        return judge_sequences(raw, feed, contract)
    return judge_attributes(raw, feed, contract)


def judge_impressions(raw: DataFrame, contract: LogContract, max_late_days: int) -> DataFrame:
    """Canonical impressions, each with a verdict; raw columns are kept for inline outcomes."""
    from pyspark.sql import functions as F

    feed = contract.impressions
    types = context_types(contract)
    named = {
        "_impression_id": _row_id(feed.id),
        "_user_id": column(feed.user_id).cast("string"),
        "_ad_id": column(feed.ad_id).cast("string"),
        "_surface": column(feed.surface).cast("string"),
        **{
            f"_context_{n}": _feature(raw, c, types[n], f"context.{n}")
            for n, c in feed.context.items()
        },
        "_bid": _optional(feed.bid),
        "_propensity": _optional(feed.propensity),
    }
    rows = with_times(raw, feed, named, feed.event_ts, feed.known_ts, contract.time_zone)
    rows = rows.withColumn("_event_day", local_day(F.col("event_ts"), contract.time_zone))
    faults = [
        *row_faults("_impression_id", "_user_id", "_ad_id", "_surface"),
        *time_faults(contract.earliest_year),
        F.when(~F.col("_surface").isin(list(contract.surface_vertical)), F.lit(UNKNOWN_SURFACE)),
        F.when(F.date_diff("_day", "_event_day") > max_late_days, F.lit("too_late")),
        *_flag_faults(contract),
    ]
    return with_verdict(rows, raw, faults, "_impression_id")


def _flag_faults(contract: LogContract) -> list[Column]:
    """Rows with an outcome whose value cannot be; it may be computed from the canonical times."""
    from pyspark.sql import functions as F

    return [
        F.when(F.expr(outcome.when), value_fault([(f"{name}_value", outcome.value)]))
        for name, outcome in contract.impressions.outcomes.items()
        if outcome.value is not None and outcome.value.has_range
    ]


def impressions(judged: DataFrame, contract: LogContract) -> DataFrame:
    """The impressions table's rows."""
    from pyspark.sql import functions as F

    names = {f"_context_{name}": name for name in contract.impressions.context}
    renamed = {f"_{n}": n for n in tables.impressions({}) if n not in ("event_ts", "known_ts")}
    kept = judged.where(F.col("_verdict") == OK)
    columns = tables.impressions(context_types(contract))
    sources = {canonical: raw for raw, canonical in {**names, **renamed}.items()}
    return kept.select(
        *[F.col(sources.get(name, name)).cast(kind).alias(name) for name, kind in columns.items()]
    )


def inline_outcomes(judged: DataFrame, contract: LogContract) -> DataFrame:
    """Outcomes that impressions carry as flags, one row each."""
    from pyspark.sql import functions as F

    found = []
    for name, outcome in contract.impressions.outcomes.items():
        event_ts, known_ts = F.col("event_ts"), F.col("known_ts")
        if outcome.event_ts:
            event_ts = F.coalesce(time_column(outcome.event_ts), event_ts)
        if outcome.known_ts:
            known_ts = F.coalesce(time_column(outcome.known_ts), known_ts)
        known_ts = F.greatest(known_ts, event_ts, F.col("known_ts"))
        fields = F.struct(
            F.lit(name).alias("outcome_type"),
            event_ts.alias("event_ts"),
            _within_folder_day(known_ts, contract.time_zone).alias("known_ts"),
            (_optional(outcome.value)).alias("value"),
        )
        found.append(F.when(F.expr(outcome.when), fields))
    each = F.explode(F.filter(F.array(*found), lambda x: x.isNotNull()))
    kept = judged.where(F.col("_verdict") == OK)
    rows = kept.select("_impression_id", FOLDER_DAY, each.alias("outcome"))
    return rows.select(
        F.concat_ws(":", "_impression_id", "outcome.outcome_type").alias("outcome_id"),
        F.col("_impression_id").alias("impression_id"),
        "outcome.outcome_type",
        "outcome.value",
        "outcome.event_ts",
        "outcome.known_ts",
        F.coalesce(FOLDER_DAY, local_day(F.col("outcome.known_ts"), contract.time_zone)).alias(
            "day"
        ),
    )


def judge_outcomes(
    raw: DataFrame, name: str, feed: OutcomesFeed, contract: LogContract
) -> DataFrame:
    """Outcomes of a feed of their own, each with a verdict."""
    from pyspark.sql import functions as F

    named = {
        "_outcome_id": F.concat(F.lit(f"{name}:"), _row_id(feed.id)),
        "_impression_id": _row_id(feed.impression_id),
        "_outcome_type": column(feed.outcome_type).cast("string"),
        "_value": _optional(feed.value),
    }
    rows = with_times(raw, feed, named, feed.event_ts, feed.known_ts, contract.time_zone)
    known_type = F.col("_outcome_type").isin(contract.outcome_types)
    faults = [
        *row_faults("_outcome_id", "_impression_id", "_outcome_type"),
        *time_faults(contract.earliest_year),
        F.when(~known_type, F.lit("unknown_outcome_type")),
    ]
    return with_verdict(rows, raw, faults, "_outcome_id")


def outcomes(judged: DataFrame) -> DataFrame:
    """The outcomes table's rows of a judged outcomes feed."""
    from pyspark.sql import functions as F

    sources = {n: f"_{n}" for n in tables.OUTCOMES if n not in ("event_ts", "known_ts")}
    return judged.where(F.col("_verdict") == OK).select(
        *[F.col(sources.get(n, n)).cast(kind).alias(n) for n, kind in tables.OUTCOMES.items()]
    )


def impression_events(shown: DataFrame) -> DataFrame:
    """The event that every impression is."""
    from pyspark.sql import functions as F

    return _events(
        shown,
        {
            "event_id": F.col("impression_id"),
            "item_id": F.col("ad_id"),
            "event_type": F.lit(IMPRESSION),
        },
    )


def outcome_events(happened: DataFrame, shown: DataFrame) -> DataFrame:
    """The event that every outcome of a known impression is.

    It is the user's from the moment on that both are known.

    Args:
        happened: The outcomes table's columns.
        shown: The impressions table's columns.
    """
    from pyspark.sql import functions as F

    about = shown.select(
        "impression_id",
        "user_id",
        F.col("ad_id").alias("item_id"),
        "surface",
        F.col("known_ts").alias("shown_known_ts"),
        F.col("day").alias("shown_day"),
    )
    joined = happened.join(about, on="impression_id", how="inner")
    return _events(
        joined,
        {
            "event_id": F.col("outcome_id"),
            "event_type": F.col("outcome_type"),
            "known_ts": F.greatest("known_ts", "shown_known_ts"),
            "day": F.greatest("day", "shown_day"),
        },
    )


def judge_events(raw: DataFrame, name: str, feed: EventsFeed, contract: LogContract) -> DataFrame:
    """User actions that are no impressions, each with a verdict."""
    from pyspark.sql import functions as F

    named = {
        "_event_id": F.concat(F.lit(f"{name}:"), _row_id(feed.id)),
        "_user_id": column(feed.user_id).cast("string"),
        "_item_id": column(feed.item_id).cast("string"),
        "_surface": column(feed.surface).cast("string"),
        "_event_type": column(feed.event_type).cast("string"),
        "_value": _optional(feed.value),
    }
    rows = with_times(raw, feed, named, feed.event_ts, feed.known_ts, contract.time_zone)
    keys = ("_event_id", "_user_id", "_item_id", "_surface", "_event_type")
    return with_verdict(
        rows, raw, [*row_faults(*keys), *time_faults(contract.earliest_year)], "_event_id"
    )


def organic_events(judged: DataFrame) -> DataFrame:
    """The events of a judged events feed."""
    from pyspark.sql import functions as F

    names = ("event_id", "user_id", "item_id", "surface", "event_type", "value", "day")
    kept = judged.where(F.col("_verdict") == OK)
    given = {name: F.col(f"_{name}") for name in names}
    return _events(kept, {**given, "impression_id": F.lit(None)})


def judge_sequences(raw: DataFrame, feed: SequencesFeed, contract: LogContract) -> DataFrame:
    """A user's lists, each row with a verdict; a user has one row."""
    named = {"_user_id": column(feed.user_id).cast("string")}
    rows = with_times(raw, feed, named, feed.last_ts, None, contract.time_zone)
    return with_verdict(
        rows, raw, [*row_faults("_user_id"), *time_faults(contract.earliest_year)], "_user_id"
    )


def sequence_events(judged: DataFrame, name: str, feed: SequencesFeed) -> DataFrame:
    """Events of lists without times: the last is given the list's time, flagged as synthetic."""
    from pyspark.sql import functions as F

    kept = judged.where(F.col("_verdict") == OK)
    parts = []
    for event_type, source in feed.sequences.items():
        listed = kept.select(
            F.col("_user_id").alias("user_id"),
            "known_ts",
            F.col("_day").alias("day"),
            F.size(source).alias("length"),
            F.posexplode(source).alias("position", "item"),
        ).where(F.col("item").isNotNull())
        ago = (F.col("length") - 1 - F.col("position")) * F.lit(int(feed.spacing.total_seconds()))
        parts.append(
            listed.select(
                F.concat_ws(":", F.lit(name), F.lit(event_type), "user_id", "position").alias(
                    "event_id"
                ),
                "user_id",
                F.col("item").cast("string").alias("item_id"),
                F.lit(feed.surface).alias("surface"),
                F.lit(event_type).alias("event_type"),
                (F.col("known_ts") - F.make_dt_interval(secs=ago)).alias("event_ts"),
                "known_ts",
                "day",
            )
        )
    events = reduce(lambda a, b: a.unionByName(b), parts)
    return _events(events, {"time_is_synthetic": F.lit(True)})


def judge_attributes(raw: DataFrame, feed: AttributesFeed, contract: LogContract) -> DataFrame:
    """States of users or ads, each row with a verdict.

    A feed with a folder per day arrives day by day, and no state is known before its day; one
    without a time of its own is known when the day is over. A one-file feed is the newest state of
    everything, and lies under the log's first day whatever its rows' known time; without a time of
    its own it is known since 1970.
    """
    from pyspark.sql import functions as F

    zone = contract.time_zone
    names = [f"{feed.entity}_{name}" for name in feed.attributes]
    types = tables.attributes(names, contract.features.bags)
    named = {
        "_entity_id": column(feed.key).cast("string"),
        **{
            f"_attribute_{n}": _feature(raw, c, types[f"{feed.entity}_{n}"], f"attributes.{n}")
            for n, c in feed.attributes.items()
        },
    }
    arrived = F.col(FOLDER_DAY)
    if feed.known_ts:
        known_ts = not_before_folder(time_column(feed.known_ts), zone)
    else:
        over = day_start(F.date_add(FOLDER_DAY, 1), zone)
        known_ts = F.coalesce(over, F.timestamp_seconds(F.lit(0)))
    rows = with_raw(raw, feed, named).withColumns(
        {"known_ts": known_ts, "_day": F.coalesce(arrived, F.lit(contract.first_day))}
    )
    unreadable = F.when(F.col("known_ts").isNull(), F.lit(UNREADABLE_TIME))
    return with_verdict(rows, raw, [*row_faults("_entity_id"), unreadable], None)


def attributes(judged: DataFrame, feed: AttributesFeed) -> DataFrame:
    """The rows of an attributes table."""
    from pyspark.sql import functions as F

    names = {f"{feed.entity}_{name}": f"_attribute_{name}" for name in feed.attributes}
    return judged.where(F.col("_verdict") == OK).select(
        F.col("_entity_id").alias("entity_id"),
        "known_ts",
        *[F.col(source).alias(name) for name, source in names.items()],
        F.col("_day").alias("day"),
    )


def _within_folder_day(known_ts: Column, time_zone: str) -> Column:
    """A flag in a day's folder was known by the end of that day."""
    from pyspark.sql import functions as F

    end = day_start(F.date_add(FOLDER_DAY, 1), time_zone)
    last = end - F.expr("INTERVAL '0.000001' SECOND")
    return F.when(F.col(FOLDER_DAY).isNotNull(), F.least(known_ts, last)).otherwise(known_ts)


def _row_id(columns: Sequence[str]) -> Column:
    """A row's id; null where all of its parts are."""
    from pyspark.sql import functions as F

    if len(columns) == 1:
        return F.col(columns[0]).cast("string")
    parts = [F.coalesce(F.col(name).cast("string"), F.lit("\u0000")) for name in columns]
    hashed = F.substring(F.sha2(F.concat_ws("\u0001", *parts), 256), 1, 32)
    return F.when(F.coalesce(*[F.col(name).cast("string") for name in columns]).isNotNull(), hashed)


def _optional(source: ColumnSource | None) -> Column:
    from pyspark.sql import functions as F

    return F.lit(None).cast("double") if source is None else column(source).cast("double")


def _events(rows: DataFrame, given: Mapping[str, Column]) -> DataFrame:
    from pyspark.sql import functions as F

    defaults = {"time_is_synthetic": F.lit(False)}
    chosen = {**defaults, **given}
    return rows.select(
        *[
            (
                chosen[name]
                if name in chosen
                else F.col(name)
                if name in rows.columns
                else F.lit(None)
            )
            .cast(kind)
            .alias(name)
            for name, kind in tables.EVENTS.items()
        ]
    )
