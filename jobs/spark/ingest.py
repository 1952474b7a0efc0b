"""Raw rows to events, impressions, outcomes and attributes: pure transforms of one feed each.

Every raw row gets a verdict: `ok`, `duplicate`, `no_consent`, or the reason why it is quarantined.
Rows are told apart by the contract's id rule; of several copies the least (`known_ts`, row hash)
wins, whatever day it arrived. Ids of outcomes and events begin with their feed's name, for feeds
may number their rows alike.

A judged row keeps its raw columns and gains `event_ts` and `known_ts` (canonical, whatever the raw
log calls so) and columns of ours that begin with an underscore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from jobs.contract import (
    IMPRESSION,
    AttributesFeed,
    EventsFeed,
    Feed,
    LogContract,
    OutcomesFeed,
    SequencesFeed,
)
from jobs.contract import Column as ColumnSource
from jobs.spark.raw import (
    ADDED,
    BAD_COLUMN,
    BAD_ROW,
    FOLDER_DAY,
    SOURCE_FILE,
    column,
    day_start,
    local_day,
    time_column,
)
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OK = "ok"
DUPLICATE = "duplicate"
NO_CONSENT = "no_consent"
IMPOSSIBLE_TIME = "impossible_time"
UNREADABLE_TIME = "unreadable_time"
_EARLIEST_YEAR = 2000
_LATEST_YEAR = 2100


def context_types(contract: LogContract) -> dict[str, str]:
    """Spark type of every context column: a number where features read it as one, else text."""
    numeric = set(contract.features.numeric)
    return {
        name: "double" if name in numeric else "string" for name in contract.impressions.context
    }


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
        **{f"_context_{n}": column(c).cast(types[n]) for n, c in feed.context.items()},
        "_bid": _optional(feed.bid),
        "_propensity": _optional(feed.propensity),
    }
    rows = _with_times(raw, feed, named, feed.event_ts, feed.known_ts, contract.time_zone)
    rows = rows.withColumn("_event_day", local_day(F.col("event_ts"), contract.time_zone))
    faults = [
        *_row_faults("_impression_id", "_user_id", "_ad_id", "_surface"),
        *_time_faults(),
        F.when(~F.col("_surface").isin(list(contract.surface_vertical)), F.lit("unknown_surface")),
        F.when(F.date_diff("_day", "_event_day") > max_late_days, F.lit("too_late")),
    ]
    return _judged(rows, raw, faults, "_impression_id")


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
    rows = _with_times(raw, feed, named, feed.event_ts, feed.known_ts, contract.time_zone)
    known_type = F.col("_outcome_type").isin(contract.outcome_types)
    faults = [
        *_row_faults("_outcome_id", "_impression_id", "_outcome_type"),
        *_time_faults(),
        F.when(~known_type, F.lit("unknown_outcome_type")),
    ]
    return _judged(rows, raw, faults, "_outcome_id")


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
    rows = _with_times(raw, feed, named, feed.event_ts, feed.known_ts, contract.time_zone)
    keys = ("_event_id", "_user_id", "_item_id", "_surface", "_event_type")
    return _judged(rows, raw, [*_row_faults(*keys), *_time_faults()], "_event_id")


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
    rows = _with_times(raw, feed, named, feed.last_ts, None, contract.time_zone)
    return _judged(rows, raw, [*_row_faults("_user_id"), *_time_faults()], "_user_id")


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
    named = {
        "_entity_id": column(feed.key).cast("string"),
        **{f"_attribute_{n}": column(c).cast("string") for n, c in feed.attributes.items()},
    }
    arrived = F.col(FOLDER_DAY)
    if feed.known_ts:
        known_ts = _not_before_folder(time_column(feed.known_ts), zone)
    else:
        over = day_start(F.date_add(FOLDER_DAY, 1), zone)
        known_ts = F.coalesce(over, F.timestamp_seconds(F.lit(0)))
    rows = _with_raw(raw, feed, named).withColumns(
        {"known_ts": known_ts, "_day": F.coalesce(arrived, F.lit(contract.first_day))}
    )
    unreadable = F.when(F.col("known_ts").isNull(), F.lit(UNREADABLE_TIME))
    return _judged(rows, raw, [*_row_faults("_entity_id"), unreadable], None)


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


def quarantine(judged: DataFrame, feed_name: str, first_day: date) -> DataFrame:
    """Rejected raw rows as JSON."""
    from pyspark.sql import functions as F

    return judged.where(_is_rejected()).select(
        F.lit(feed_name).alias("feed"),
        F.col("_verdict").alias("reason"),
        F.col(SOURCE_FILE).alias("source_file"),
        F.col("_row").alias("row"),
        _filed_under(first_day).alias("day"),
    )


def count_verdicts(judged: DataFrame, first_day: date) -> list[tuple[date, str, int]]:
    """(arrival day, verdict, rows)."""
    rows = judged.groupBy(_filed_under(first_day).alias("day"), "_verdict").count().collect()
    return sorted((row["day"], row["_verdict"], row["count"]) for row in rows)


def without_known(judged: DataFrame, id_column: str, known_ids: DataFrame) -> DataFrame:
    """Mark rows whose id an earlier arrival day already holds as duplicates."""
    from pyspark.sql import functions as F

    known = known_ids.select(
        F.col(known_ids.columns[0]).alias(id_column), F.lit(True).alias("_held")
    )
    joined = judged.join(known, on=id_column, how="left")
    again = F.col("_held").isNotNull() & (F.col("_verdict") == OK)
    verdict = F.when(again, F.lit(DUPLICATE)).otherwise(F.col("_verdict"))
    return joined.withColumn("_verdict", verdict).drop("_held")


def _is_rejected() -> Column:
    from pyspark.sql import functions as F

    return ~F.col("_verdict").isin(OK, DUPLICATE, NO_CONSENT)


def _filed_under(first_day: date) -> Column:
    """Day under which a verdict is filed: the log's first where a row's own time is no time."""
    from pyspark.sql import functions as F

    no_time = F.col("_verdict").isin(UNREADABLE_TIME, IMPOSSIBLE_TIME)
    own = F.when(no_time, F.col(FOLDER_DAY)).otherwise(F.col("_day"))
    return F.coalesce(own, F.lit(first_day))


def _with_raw(raw: DataFrame, feed: Feed, named: Mapping[str, Column]) -> DataFrame:
    """Add columns that are made of the raw row alone, before any canonical name hides a raw one."""
    from pyspark.sql import functions as F

    columns = sorted(c for c in raw.columns if c not in ADDED)
    consent = F.coalesce(F.expr(feed.consent), F.lit(False)) if feed.consent else F.lit(True)
    return raw.withColumns(
        {
            **named,
            "_row_hash": F.xxhash64(*columns),
            "_consent": consent,
            **{f"_raw_{c}": F.col(c) for c in columns if c.lower() in _CANONICAL},
        }
    )


_CANONICAL = ("event_ts", "known_ts")


def _with_times(
    raw: DataFrame,
    feed: Feed,
    named: Mapping[str, Column],
    event_ts: ColumnSource,
    known_ts: ColumnSource | None,
    time_zone: str,
) -> DataFrame:
    """Add `event_ts`, `known_ts` and the arrival day."""
    from pyspark.sql import functions as F

    rows = _with_raw(raw, feed, named).withColumn("event_ts", time_column(event_ts))
    known = time_column(known_ts) if known_ts else F.col("event_ts")
    rows = rows.withColumn("known_ts", _not_before_folder(known, time_zone))
    known_day = local_day(F.col("known_ts"), time_zone)
    return rows.withColumns({"_known_day": known_day, "_day": F.coalesce(FOLDER_DAY, known_day)})


def _not_before_folder(known_ts: Column, time_zone: str) -> Column:
    """A row cannot have been known before the day under which it arrived."""
    from pyspark.sql import functions as F

    start = day_start(F.col(FOLDER_DAY), time_zone)
    # `greatest` passes over nulls, and would date a row by its folder whose time is unreadable.
    return F.when(known_ts.isNotNull(), F.greatest(known_ts, start))


def _judged(
    rows: DataFrame, raw: DataFrame, faults: Sequence[Column], id_column: str | None
) -> DataFrame:
    """Add `_verdict`, the first fault of a row, and `_row`, the raw row of a rejected one."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = rows.withColumn("_verdict", F.coalesce(*faults, F.lit(OK)))
    originals = [
        F.col(f"_raw_{c}" if c.lower() in _CANONICAL else c).alias(c)
        for c in raw.columns
        if c not in ADDED
    ]
    text = F.coalesce(F.col(BAD_ROW), F.to_json(F.struct(*originals)))
    rows = rows.withColumn("_row", F.when(_is_rejected(), text))
    if id_column is None:
        return rows
    same = Window.partitionBy(id_column, "_verdict").orderBy("known_ts", "_row_hash")
    copy = (F.col("_verdict") == OK) & (F.row_number().over(same) > 1)
    return rows.withColumn("_verdict", F.when(copy, F.lit(DUPLICATE)).otherwise(F.col("_verdict")))


def _within_folder_day(known_ts: Column, time_zone: str) -> Column:
    """A flag in a day's folder was known by the end of that day."""
    from pyspark.sql import functions as F

    end = day_start(F.date_add(FOLDER_DAY, 1), time_zone)
    last = end - F.expr("INTERVAL '0.000001' SECOND")
    return F.when(F.col(FOLDER_DAY).isNotNull(), F.least(known_ts, last)).otherwise(known_ts)


def _row_faults(*keys: str) -> list[Column]:
    from pyspark.sql import functions as F

    return [
        F.when(~F.col("_consent"), F.lit(NO_CONSENT)),
        F.when(F.col(BAD_COLUMN).isNotNull(), F.concat(F.lit("bad_"), BAD_COLUMN)),
        *[
            F.when(F.col(key).isNull() | (F.trim(key) == ""), F.lit(f"null_{key[1:]}"))
            for key in keys
        ],
    ]


def _time_faults() -> list[Column]:
    from pyspark.sql import functions as F

    possible = F.year("event_ts").between(_EARLIEST_YEAR, _LATEST_YEAR)
    return [
        F.when(F.col("event_ts").isNull() | F.col("known_ts").isNull(), F.lit(UNREADABLE_TIME)),
        F.when(~possible | (F.year("known_ts") > _LATEST_YEAR), F.lit(IMPOSSIBLE_TIME)),
        F.when(F.col("event_ts") > F.col("known_ts"), F.lit("time_in_the_future")),
        F.when(F.col("_known_day") > F.col("_day"), F.lit("known_after_arrival")),
    ]


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
