"""What becomes of a raw row: its times, and its verdict.

Every raw row gets a verdict: `ok`, `duplicate`, `no_consent`, `erased`, or the reason why it is
quarantined. Rows are told apart by the contract's id rule; of several copies the least
(`known_ts`, row hash) wins, whatever day it arrived.

A judged row keeps its raw columns and gains `event_ts` and `known_ts` (canonical, whatever the raw
log calls so) and columns of ours that begin with an underscore.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING

from jobs.feeds import Column as ColumnSource
from jobs.feeds import Feed, columns_of
from jobs.spark.raw import (
    ADDED,
    BAD_COLUMN,
    BAD_ROW,
    FOLDER_DAY,
    SOURCE_FILE,
    day_start,
    local_day,
    time_column,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OK = "ok"
DUPLICATE = "duplicate"
NO_CONSENT = "no_consent"
UNKNOWN_SURFACE = "unknown_surface"
ERASED = "erased"
IMPOSSIBLE_TIME = "impossible_time"
UNREADABLE_TIME = "unreadable_time"
EPOCH_ZERO = "epoch_zero"
_NO_TIMES = (EPOCH_ZERO, IMPOSSIBLE_TIME, UNREADABLE_TIME)
_DAY_MICROS = 86_400_000_000
_LATEST_YEAR = 2100


def with_raw(raw: DataFrame, feed: Feed, named: Mapping[str, Column]) -> DataFrame:
    """Add columns that are made of the raw row alone, before any canonical name hides a raw one."""
    from pyspark.sql import functions as F

    columns = sorted(c for c in raw.columns if c not in ADDED)
    consent = F.coalesce(F.expr(feed.consent), F.lit(False)) if feed.consent else F.lit(True)
    return raw.withColumns(
        {
            **named,
            "_value_fault": value_fault(
                (place.rsplit(".", 1)[-1], source)
                for place, source in columns_of(feed)
                if not place.startswith("outcomes.")
            ),
            "_row_hash": F.xxhash64(*columns),
            "_consent": consent,
            **{f"_raw_{c}": F.col(c) for c in columns if c.lower() in _CANONICAL},
        }
    )


_CANONICAL = ("event_ts", "known_ts")


def with_times(
    raw: DataFrame,
    feed: Feed,
    named: Mapping[str, Column],
    event_ts: ColumnSource,
    known_ts: ColumnSource | None,
    time_zone: str,
) -> DataFrame:
    """Add `event_ts`, `known_ts` and the arrival day."""
    from pyspark.sql import functions as F

    rows = with_raw(raw, feed, named).withColumn("event_ts", time_column(event_ts))
    known = time_column(known_ts) if known_ts else F.col("event_ts")
    rows = rows.withColumn("known_ts", not_before_folder(known, time_zone))
    known_day = local_day(F.col("known_ts"), time_zone)
    return rows.withColumns({"_known_day": known_day, "_day": F.coalesce(FOLDER_DAY, known_day)})


def not_before_folder(known_ts: Column, time_zone: str) -> Column:
    """A row cannot have been known before the day under which it arrived."""
    from pyspark.sql import functions as F

    start = day_start(F.col(FOLDER_DAY), time_zone)
    # `greatest` passes over nulls, and would date a row by its folder whose time is unreadable.
    return F.when(known_ts.isNotNull(), F.greatest(known_ts, start))


def row_faults(*keys: str) -> list[Column]:
    from pyspark.sql import functions as F

    return [
        F.when(~F.col("_consent"), F.lit(NO_CONSENT)),
        F.when(F.col(BAD_COLUMN).isNotNull(), F.concat(F.lit("bad_"), BAD_COLUMN)),
        *[
            F.when(F.col(key).isNull() | (F.trim(key) == ""), F.lit(f"null_{key[1:]}"))
            for key in keys
        ],
    ]


def time_faults(earliest_year: int) -> list[Column]:
    from pyspark.sql import functions as F

    # Nobody's clock stood within a day of 1970: a zero that was no time, in whatever zone.
    moments = [F.col("event_ts"), F.col("known_ts")]
    zero = F.least(*[F.abs(F.unix_micros(moment)) for moment in moments]) < _DAY_MICROS
    possible = [F.year(moment).between(earliest_year, _LATEST_YEAR) for moment in moments]
    return [
        F.when(F.col("event_ts").isNull() | F.col("known_ts").isNull(), F.lit(UNREADABLE_TIME)),
        F.when(zero, F.lit(EPOCH_ZERO)),
        F.when(~possible[0] | ~possible[1], F.lit(IMPOSSIBLE_TIME)),
        F.when(F.col("event_ts") > F.col("known_ts"), F.lit("time_in_the_future")),
        F.when(F.col("_known_day") > F.col("_day"), F.lit("known_after_arrival")),
    ]


def value_fault(sources: Iterable[tuple[str, ColumnSource | None]]) -> Column:
    """The first column, if any, whose value is not listed or out of its range."""
    from pyspark.sql import functions as F

    faults = [F.lit(None).cast("string")]
    for name, source in sources:
        if source is None:
            continue
        raw = F.expr(source.sql)
        if source.values is not None:
            listed = raw.cast("string").isin(list(source.values))
            faults.append(F.when(~listed, F.lit(f"unknown_{name}")))
        if source.has_range:
            number = raw.try_cast("double")
            outside = [F.isnan(number)]
            if source.min is not None:
                outside.append(number < F.lit(source.min))
            if source.max is not None:
                outside.append(number > F.lit(source.max))
            wrong = reduce(lambda a, b: a | b, outside)
            faults.append(F.when(wrong, F.lit(f"impossible_{name}")))
    return F.coalesce(*faults)


def with_verdict(
    rows: DataFrame, raw: DataFrame, faults: Sequence[Column], id_column: str | None
) -> DataFrame:
    """Add `_verdict`, the first fault of a row, and `_row`, the raw row of a rejected one."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = rows.withColumn("_verdict", F.coalesce(*faults, F.col("_value_fault"), F.lit(OK)))
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


@dataclass(frozen=True)
class VerdictProfile:
    """What is known of a feed's rows with one verdict on one arrival day."""

    day: date
    verdict: str
    rows: int
    first: datetime | None
    last: datetime | None
    """Times of the first and the last row, UTC."""
    example: str | None
    """One of the rows as JSON, where they were rejected."""


def profile_verdicts(judged: DataFrame, first_day: date, moment: str) -> list[VerdictProfile]:
    """Like `count_verdicts`, with an example.

    Args:
        judged: Judged rows.
        first_day: The log's first day.
        moment: Column of a row's time.
    """
    from pyspark.sql import functions as F

    grouped = judged.groupBy(_filed_under(first_day).alias("day"), "_verdict")
    known = F.unix_micros(moment)
    rows = grouped.agg(F.count(F.lit(1)), F.min(known), F.max(known), F.min("_row")).collect()
    found = [
        VerdictProfile(day, verdict, count, _utc(first), _utc(last), example)
        for day, verdict, count, first, last, example in rows
    ]
    return sorted(found, key=lambda profile: (profile.day, profile.verdict))


def _utc(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def without_erased(
    judged: DataFrame, id_column: str, salt: str, hashes: Collection[str]
) -> DataFrame:
    """Mark rows of a user, or about an impression, that has been erased, whatever else they are.

    Args:
        judged: Rows with a verdict.
        id_column: Their user's or impression's id.
        salt: What the hashes begin with.
        hashes: Hashes of the ids that have been erased.
    """
    from pyspark.sql import functions as F

    erased = judged.sparkSession.createDataFrame([(one,) for one in hashes], "_hash string")
    hashed = F.sha2(F.concat(F.lit(salt), F.col(id_column)), 256)
    joined = judged.join(F.broadcast(erased), on=hashed == F.col("_hash"), how="left")
    gone = F.when(F.col("_hash").isNotNull(), F.lit(ERASED)).otherwise(F.col("_verdict"))
    return joined.withColumn("_verdict", gone).drop("_hash")


def _is_rejected() -> Column:
    from pyspark.sql import functions as F

    return ~F.col("_verdict").isin(OK, DUPLICATE, NO_CONSENT, ERASED)


def _filed_under(first_day: date) -> Column:
    """Day under which a verdict is filed: the log's first where a row's own time is no time."""
    from pyspark.sql import functions as F

    # What is wrong with the row of somebody erased is not told.
    impossible = (F.col("_day") < F.lit(first_day)) | (F.year("_day") > _LATEST_YEAR)
    no_time = F.col("_verdict").isin(*_NO_TIMES)
    no_time |= (F.col("_verdict") == ERASED) & impossible
    own = F.when(no_time, F.col(FOLDER_DAY)).otherwise(F.col("_day"))
    return F.coalesce(own, F.lit(first_day))
