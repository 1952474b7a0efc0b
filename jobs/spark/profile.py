"""A raw log held against its contract: what an ingest would make of it, without any table.

The feeds are read and judged by the ingest's own code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING, Any

from jobs import schemas
from jobs.config import Recipe
from jobs.contract import LogContract
from jobs.feeds import AttributesFeed, OutcomesFeed
from jobs.spark import ingest
from jobs.spark.labels import label_rows
from jobs.spark.raw import RawFeed, read_feed
from jobs.spark.verdicts import (
    DUPLICATE,
    NO_CONSENT,
    OK,
    UNKNOWN_SURFACE,
    VerdictProfile,
    profile_verdicts,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_MAX_SURFACES = 50


def profile_log(spark: SparkSession, settings: Recipe, days: Sequence[date]) -> dict[str, Any]:
    """What an ingest of days would take, set aside and leave out.

    Args:
        spark: Session.
        settings: The log, its contract, and after how many days an impression is too late.
        days: Arrival days. Copies of rows of other days are not found.

    Returns:
        Plain values: by feed, the rows by day and verdict, an example of each reason, first and
        last times, and raw columns that the contract does not name; over all feeds, outcomes
        without impression, surfaces in no vertical, and the tasks' base rates.

    Raises:
        ConfigError: The contract does not fit the log.
    """
    contract = settings.contract
    raw = {
        name: read_feed(spark, name, feed, settings.log_uri, days)
        for name, feed in contract.feeds.items()
    }
    there = {name: feed for name, feed in raw.items() if feed is not None}
    changes = [text for name, feed in there.items() for text in _changes(contract, name, feed)]
    late = settings.windows.max_late_days
    with _kept(
        {name: ingest.judge(feed.rows, name, contract, late) for name, feed in there.items()}
    ) as judged:
        return {
            "feeds": {
                name: _feed(contract, name, raw[name], judged.get(name), days)
                for name in contract.feeds
            },
            "schema_changes": changes,
            **_together(contract, judged, days),
        }


@contextmanager
def _kept(judged: dict[str, DataFrame]) -> Iterator[dict[str, DataFrame]]:
    """Judge every row once, though several figures are made of it."""
    kept = {name: rows.persist() for name, rows in judged.items()}
    try:
        yield kept
    finally:
        for rows in kept.values():
            rows.unpersist()


def _changes(contract: LogContract, name: str, raw: RawFeed) -> list[str]:
    columns = {day or contract.first_day: found for day, found in raw.columns.items()}
    return schemas.changes(name, contract.feeds[name], columns, {})


def _feed(
    contract: LogContract,
    name: str,
    raw: RawFeed | None,
    judged: DataFrame | None,
    days: Sequence[date],
) -> dict[str, Any]:
    feed = contract.feeds[name]
    if raw is None or judged is None:
        return {"kind": feed.kind, "verdicts": {}, "days": {}, "examples": {}}
    moment = "known_ts" if isinstance(feed, AttributesFeed) else "event_ts"
    found = profile_verdicts(judged, contract.first_day, moment)
    daily = "{day}" in feed.path
    # One file of attributes lies under the log's first day, and is read whatever the days.
    whole = isinstance(feed, AttributesFeed) and not daily
    within = [p for p in found if whole or p.day in days]
    columns = sorted({column for found in raw.columns.values() for column in found})
    return {
        "kind": feed.kind,
        "verdicts": dict(_sum((p.verdict, p.rows) for p in within)),
        "days": _by_day(within),
        "examples": {p.verdict: p.example for p in within if p.example is not None},
        "first": min((p.first for p in within if p.verdict == OK and p.first), default=None),
        "last": max((p.last for p in within if p.verdict == OK and p.last), default=None),
        "unused_columns": [column for column in columns if not feed.names(column)],
        "rows_of_other_days": sum(p.rows for p in found) - sum(p.rows for p in within),
        "rows_of_other_feeds": raw.num_others,
    }


def _sum(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    totals = Counter[str]()
    for key, rows in pairs:
        totals[key] += rows
    return totals


def _by_day(found: Sequence[VerdictProfile]) -> dict[str, dict[str, int]]:
    days: dict[str, dict[str, int]] = {}
    for profile in found:
        days.setdefault(profile.day.isoformat(), {})[profile.verdict] = profile.rows
    return days


def _together(
    contract: LogContract, judged: Mapping[str, DataFrame], days: Sequence[date]
) -> dict[str, Any]:
    """What several feeds tell of each other."""
    from pyspark.sql import functions as F

    name = next(n for n, feed in contract.feeds.items() if feed is contract.impressions)
    if name not in judged:
        return {"outcomes_without_impression": 0, "unmapped_surfaces": {}, "base_rates": {}}
    unmapped = judged[name].where(F.col("_verdict") == UNKNOWN_SURFACE).groupBy("_surface").count()
    busiest = unmapped.orderBy(F.desc("count"), "_surface").limit(_MAX_SURFACES).collect()
    shown = ingest.impressions(judged[name], contract)
    own = [
        ingest.outcomes(judged[other])
        for other, feed in contract.feeds.items()
        if isinstance(feed, OutcomesFeed) and other in judged
    ]
    orphans = sum(
        rows.where(F.col("day").isin(days))
        .join(shown.select("impression_id"), on="impression_id", how="left_anti")
        .count()
        for rows in own
    )
    if contract.impressions.outcomes:
        own.append(ingest.inline_outcomes(judged[name], contract))
    rates = {}
    if own:
        outcomes = reduce(lambda a, b: a.unionByName(b), own)
        rates = _base_rates(contract, shown.where(F.col("day").isin(days)), outcomes)
    return {
        "outcomes_without_impression": orphans,
        "unmapped_surfaces": {row[0]: row[1] for row in busiest},
        "base_rates": rates,
    }


def _base_rates(
    contract: LogContract, shown: DataFrame, outcomes: DataFrame
) -> dict[str, dict[str, Any]]:
    """By task: impressions whose label has matured in the days read, and how many are positive."""
    from pyspark.sql import functions as F

    last = shown.agg(F.max("day")).collect()[0][0]
    if last is None:
        return {}
    labels = label_rows(shown, outcomes, contract.tasks, last, contract.time_zone, {})
    sums = [f(f"label_{task}") for task in contract.tasks for f in (F.count, F.sum)]
    counts = labels.agg(*sums).collect()[0]
    pairs = zip(contract.tasks, counts[::2], counts[1::2], strict=True)
    return {
        task: {"rows": rows, "positives": ones or 0, "rate": (ones or 0) / rows if rows else None}
        for task, rows, ones in pairs
    }


NO_FAULTS = (OK, DUPLICATE, NO_CONSENT)
"""Verdicts that set no row aside."""
