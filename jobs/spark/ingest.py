"""Raw rows to events, impressions, outcomes and attributes: pure transforms of one feed each.

Every raw row gets a verdict: `ok`, `duplicate`, `no_consent`, or the reason why it is quarantined.
Rows are told apart by the contract's id rule; of several copies the least (`known_ts`, row hash)
wins, whatever day it arrived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from jobs.contract import (
    IMPRESSION,
    AttributesFeed,
    EventsFeed,
    Feed,
    ImpressionsFeed,
    LogContract,
    OutcomesFeed,
    SequencesFeed,
)
from jobs.spark.raw import BAD_COLUMN, FOLDER_DAY, SOURCE_FILE, column, local_day, time_column
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OK = "ok"
DUPLICATE = "duplicate"
NO_CONSENT = "no_consent"
_EARLIEST_YEAR = 2000


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
    rows = _with_times(raw, feed, feed, contract.time_zone)
    rows = rows.withColumns(
        {
            "_impression_id": _row_id(feed.id),
            "_user_id": column(feed.user_id).cast("string"),
            "_ad_id": column(feed.ad_id).cast("string"),
            "_surface": column(feed.surface).cast("string"),
            "_event_day": local_day(F.col("event_ts"), contract.time_zone),
            **{
                f"_context_{n}": column(c).cast(context_types(contract)[n])
                for n, c in feed.context.items()
            },
            "_bid": _optional(feed.bid),
            "_propensity": _optional(feed.propensity),
        }
    )
    surfaces = list(contract.surface_vertical)
    verdict = F.coalesce(
        *_common_faults(feed, ["_user_id", "_ad_id", "_surface"]),
        F.when(~F.col("_surface").isin(surfaces), F.lit("unknown_surface")),
        F.when(F.date_diff("day", "_event_day") > max_late_days, F.lit("too_late")),
        F.lit(OK),
    )
    return _without_copies(rows.withColumn("verdict", verdict), "_impression_id")


def impressions(judged: DataFrame, contract: LogContract) -> DataFrame:
    """The impressions table's rows."""
    from pyspark.sql import functions as F

    names = {f"_context_{name}": name for name in contract.impressions.context}
    renamed = {
        f"_{n}": n
        for n in ("impression_id", "user_id", "ad_id", "surface", "bid", "propensity", "event_day")
    }
    kept = judged.where(F.col("verdict") == OK)
    columns = tables.impressions(context_types(contract))
    sources = {canonical: raw for raw, canonical in {**names, **renamed}.items()}
    return kept.select(
        *[F.col(sources.get(name, name)).cast(kind).alias(name) for name, kind in columns.items()]
    )


def inline_outcomes(judged: DataFrame, contract: LogContract) -> DataFrame:
    """Outcomes that impressions carry as flags, one row each."""
    from pyspark.sql import functions as F

    feed = contract.impressions
    kept = judged.where(F.col("verdict") == OK)
    found = []
    for name, outcome in feed.outcomes.items():
        event_ts = time_column(outcome.event_ts) if outcome.event_ts else F.col("event_ts")
        known_ts = time_column(outcome.known_ts) if outcome.known_ts else F.col("known_ts")
        known_ts = F.greatest(known_ts, event_ts, F.col("known_ts"))
        fields = F.struct(
            F.lit(name).alias("outcome_type"),
            event_ts.alias("event_ts"),
            _within_folder_day(known_ts, contract.time_zone).alias("known_ts"),
            (_optional(outcome.value)).alias("value"),
        )
        found.append(F.when(F.expr(outcome.when), fields))
    each = F.explode(F.filter(F.array(*found), lambda x: x.isNotNull()))
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


def judge_outcomes(raw: DataFrame, feed: OutcomesFeed, contract: LogContract) -> DataFrame:
    """Outcomes of a feed of their own, each with a verdict."""
    from pyspark.sql import functions as F

    rows = _with_times(raw, feed, feed, contract.time_zone)
    rows = rows.withColumns(
        {
            "_outcome_id": _row_id(feed.id),
            "_impression_id": _row_id(feed.impression_id),
            "_outcome_type": column(feed.outcome_type).cast("string"),
            "_value": _optional(feed.value),
        }
    )
    verdict = F.coalesce(
        *_common_faults(feed, ["_outcome_type"]),
        F.when(~F.col("_outcome_type").isin(contract.outcome_types), F.lit("unknown_outcome_type")),
        F.lit(OK),
    )
    return _without_copies(rows.withColumn("verdict", verdict), "_outcome_id")


def outcomes(judged: DataFrame) -> DataFrame:
    """The outcomes table's rows of a judged outcomes feed."""
    from pyspark.sql import functions as F

    sources = {n: f"_{n}" for n in ("outcome_id", "impression_id", "outcome_type", "value")}
    return judged.where(F.col("verdict") == OK).select(
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
    """The event that every outcome of a known impression is."""
    from pyspark.sql import functions as F

    about = shown.select("impression_id", "user_id", F.col("ad_id").alias("item_id"), "surface")
    joined = happened.join(about, on="impression_id", how="inner")
    return _events(joined, {"event_id": F.col("outcome_id"), "event_type": F.col("outcome_type")})


def judge_events(raw: DataFrame, feed: EventsFeed, contract: LogContract) -> DataFrame:
    """User actions that are no impressions, each with a verdict."""
    from pyspark.sql import functions as F

    rows = _with_times(raw, feed, feed, contract.time_zone)
    rows = rows.withColumns(
        {
            "_event_id": _row_id(feed.id),
            "_user_id": column(feed.user_id).cast("string"),
            "_item_id": column(feed.item_id).cast("string"),
            "_surface": column(feed.surface).cast("string"),
            "_event_type": column(feed.event_type).cast("string"),
            "_value": _optional(feed.value),
        }
    )
    faults = _common_faults(feed, ["_user_id", "_item_id", "_surface", "_event_type"])
    return _without_copies(rows.withColumn("verdict", F.coalesce(*faults, F.lit(OK))), "_event_id")


def organic_events(judged: DataFrame) -> DataFrame:
    """The events of a judged events feed."""
    from pyspark.sql import functions as F

    names = ("event_id", "user_id", "item_id", "surface", "event_type", "value")
    kept = judged.where(F.col("verdict") == OK)
    given = {name: F.col(f"_{name}") for name in names}
    return _events(kept, {**given, "impression_id": F.lit(None)})


def sequence_events(raw: DataFrame, feed: SequencesFeed, contract: LogContract) -> DataFrame:
    """Events of lists without times: the last is given the list's time, flagged as synthetic."""
    from pyspark.sql import functions as F

    last_ts = time_column(feed.last_ts)
    parts = None
    for event_type, source in feed.sequences.items():
        listed = raw.select(
            column(feed.user_id).cast("string").alias("user_id"),
            last_ts.alias("known_ts"),
            F.size(source).alias("length"),
            F.posexplode(source).alias("position", "item"),
        )
        ago = (F.col("length") - 1 - F.col("position")) * F.lit(int(feed.spacing.total_seconds()))
        rows = listed.where(F.col("known_ts").isNotNull() & F.col("user_id").isNotNull()).select(
            F.concat_ws(":", F.lit(event_type), "user_id", "position").alias("event_id"),
            "user_id",
            F.col("item").cast("string").alias("item_id"),
            F.lit(feed.surface).alias("surface"),
            F.lit(event_type).alias("event_type"),
            (F.col("known_ts") - F.make_dt_interval(secs=ago)).alias("event_ts"),
            "known_ts",
            local_day(F.col("known_ts"), contract.time_zone).alias("day"),
        )
        parts = rows if parts is None else parts.unionByName(rows)
    assert parts is not None
    return _events(parts, {"time_is_synthetic": F.lit(True)})


def attributes(raw: DataFrame, feed: AttributesFeed, contract: LogContract) -> DataFrame:
    """Attributes of users or ads; undated ones are known since 1970.

    A feed with a folder per day arrives day by day. A one-file feed is the newest state of
    everything, and lies under the log's first day whatever its rows' known time.
    """
    from pyspark.sql import functions as F

    known_ts = time_column(feed.known_ts) if feed.known_ts else F.timestamp_seconds(F.lit(0))
    named = {f"{feed.entity}_{n}": column(c).cast("string") for n, c in feed.attributes.items()}
    return (
        raw.select(
            column(feed.key).cast("string").alias("entity_id"),
            known_ts.alias("known_ts"),
            *[value.alias(name) for name, value in named.items()],
            F.coalesce(F.col(FOLDER_DAY), F.lit(contract.first_day)).alias("day"),
        )
        .where(F.col("entity_id").isNotNull() & F.col("known_ts").isNotNull())
        .select(*tables.attributes(list(named)))
    )


def quarantine(judged: DataFrame, feed_name: str, first_day: date) -> DataFrame:
    """Rejected raw rows as JSON; a row without a readable time lies under the log's first day."""
    from pyspark.sql import functions as F

    raw_columns = [c for c in judged.columns if not c.startswith("_") and c not in _ADDED]
    rejected = ~F.col("verdict").isin(OK, DUPLICATE, NO_CONSENT)
    return judged.where(rejected).select(
        F.lit(feed_name).alias("feed"),
        F.col("verdict").alias("reason"),
        F.col(SOURCE_FILE).alias("source_file"),
        F.to_json(F.struct(*raw_columns)).alias("row"),
        F.coalesce("day", F.lit(first_day)).alias("day"),
    )


_ADDED = {"event_ts", "known_ts", "day", "verdict"}


def count_verdicts(judged: DataFrame, first_day: date) -> list[tuple[date, str, int]]:
    """(arrival day, verdict, rows)."""
    from pyspark.sql import functions as F

    day = F.coalesce("day", F.lit(first_day))
    rows = judged.groupBy(day.alias("day"), "verdict").count().collect()
    return sorted((row["day"], row["verdict"], row["count"]) for row in rows)


def without_known(judged: DataFrame, id_column: str, known_ids: DataFrame) -> DataFrame:
    """Mark rows whose id an earlier arrival day already holds as duplicates."""
    from pyspark.sql import functions as F

    known = known_ids.select(
        F.col(known_ids.columns[0]).alias(id_column), F.lit(True).alias("_held")
    )
    joined = judged.join(known, on=id_column, how="left")
    again = F.col("_held").isNotNull() & (F.col("verdict") == OK)
    verdict = F.when(again, F.lit(DUPLICATE)).otherwise(F.col("verdict"))
    return joined.withColumn("verdict", verdict).drop("_held")


def _with_times(
    raw: DataFrame, feed: Feed, times: ImpressionsFeed | OutcomesFeed | EventsFeed, time_zone: str
) -> DataFrame:
    """Add `event_ts`, `known_ts` and the arrival day `day`."""
    from pyspark.sql import functions as F

    # A raw column may have a canonical name; the hash is taken of the raw row, before.
    raw_hash = F.xxhash64(*[c for c in raw.columns if not c.startswith("_")])
    consent = F.coalesce(F.expr(feed.consent), F.lit(False)) if feed.consent else F.lit(True)
    rows = raw.withColumns({"_row_hash": raw_hash, "_consent": consent})
    rows = rows.withColumn("event_ts", time_column(times.event_ts))
    known = time_column(times.known_ts) if times.known_ts else F.col("event_ts")
    folder_start = F.to_utc_timestamp(F.col(FOLDER_DAY).cast("timestamp"), time_zone)
    # A row cannot have been known before the day under which it arrived.
    rows = rows.withColumn("known_ts", F.greatest(known, folder_start))
    return rows.withColumn(
        "day", F.coalesce(FOLDER_DAY, local_day(F.col("known_ts"), time_zone))
    ).withColumn("_known_day", local_day(F.col("known_ts"), time_zone))


def _within_folder_day(known_ts: Column, time_zone: str) -> Column:
    """A flag in a day's folder was known by the end of that day."""
    from pyspark.sql import functions as F

    end = F.to_utc_timestamp(F.date_add(FOLDER_DAY, 1).cast("timestamp"), time_zone)
    last = end - F.expr("INTERVAL '0.000001' SECOND")
    return F.when(F.col(FOLDER_DAY).isNotNull(), F.least(known_ts, last)).otherwise(known_ts)


def _common_faults(feed: Feed, keys: Sequence[str]) -> list[Column]:
    from pyspark.sql import functions as F

    empty = [
        F.when(F.col(key).isNull() | (F.trim(key) == ""), F.lit(f"null_{key.removeprefix('_')}"))
        for key in keys
    ]
    return [
        F.when(~F.col("_consent"), F.lit(NO_CONSENT)),
        F.when(F.col(BAD_COLUMN).isNotNull(), F.concat(F.lit("bad_"), BAD_COLUMN)),
        *empty,
        F.when(F.col("event_ts").isNull() | F.col("known_ts").isNull(), F.lit("unreadable_time")),
        F.when(F.year("event_ts") < _EARLIEST_YEAR, F.lit("impossible_time")),
        F.when(F.col("event_ts") > F.col("known_ts"), F.lit("time_in_the_future")),
        F.when(F.col("_known_day") > F.col("day"), F.lit("known_after_arrival")),
    ]


def _without_copies(judged: DataFrame, id_column: str) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    same = Window.partitionBy(id_column, "verdict").orderBy("known_ts", "_row_hash")
    rank = F.row_number().over(same)
    copy = (F.col("verdict") == OK) & (rank > 1)
    return judged.withColumn("verdict", F.when(copy, F.lit(DUPLICATE)).otherwise(F.col("verdict")))


def _row_id(columns: Sequence[str]) -> Column:
    from pyspark.sql import functions as F

    parts = [F.coalesce(F.col(name).cast("string"), F.lit("\u0000")) for name in columns]
    if len(parts) == 1:
        return parts[0]
    return F.substring(F.sha2(F.concat_ws("\u0001", *parts), 256), 1, 32)


def _optional(source: object) -> Column:
    from pyspark.sql import functions as F

    from jobs.contract import Column as ColumnSource

    if source is None:
        return F.lit(None).cast("double")
    assert isinstance(source, ColumnSource)
    return column(source).cast("double")


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
