"""The raw rows that arrive on a range of days, judged feed by feed, as the frames of the tables.

Nothing is written here but the hashes of erased users' impressions: `jobs.ingest_log` writes what
it is handed. Every row is judged once; what was counted on the way is kept for the summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from jobs import delta, schemas
from jobs.command import log
from jobs.config import RunConfig
from jobs.erased import IMPRESSION, USER, add_erased, read_erased
from jobs.erased import TABLE as ERASED
from jobs.errors import ConfigError
from jobs.feeds import AttributesFeed, EventsFeed, Feed, OutcomesFeed, SequencesFeed
from jobs.spark import ingest, verdicts
from jobs.spark.raw import RawFeed, read_feed
from jobs.spark.tables import read_table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Acts(NamedTuple):
    """What users were shown and did; None where no feed of a kind has anything to read."""

    impressions: DataFrame | None
    outcomes: DataFrame | None
    events: DataFrame | None


class Arrivals:
    """One reading of a range of arrival days; counts what it judges."""

    def __init__(self, config: RunConfig, spark: SparkSession) -> None:
        self.config = config
        self.contract = config.contract
        self.spark = spark
        self.days = config.days
        self.verdicts: list[tuple[str, date, str, int]] = []
        """(feed, arrival day, verdict, rows)."""
        self.orphans = 0
        """Outcomes whose impression is not known."""
        self.raw: dict[str, RawFeed] = {}
        """What was read, by feed."""
        self.schema_changes: list[str] = []
        self.quarantined: list[DataFrame] = []
        self._judged: list[DataFrame] = []
        self._erased = read_erased(config.table(ERASED))

    def read(self) -> None:
        """Read every feed; stop, before anything is written, where its columns no longer fit."""
        held = schemas.held_columns(self.config.table(schemas.TABLE))
        for name, feed in self.contract.feeds.items():
            found = read_feed(self.spark, name, feed, self.config.log_uri, self.days)
            if found is None:
                continue
            self.raw[name] = found
            columns = self._columns(found)
            self.schema_changes += schemas.changes(name, feed, columns, held.get(name, {}))
        for text in self.schema_changes:
            log.warning("the raw columns have changed: %s", text)

    def acts(self) -> Acts:
        """Judge the feeds of impressions, outcomes and events."""
        shown, outcomes = self._impressions()
        events = None if shown is None else ingest.impression_events(shown)
        if shown is not None and outcomes is not None:
            events = _union(events, ingest.outcome_events(outcomes, shown))
        for name, feed in self.contract.feeds.items():
            if isinstance(feed, OutcomesFeed):
                happened = self._outcomes(name, feed)
                if happened is not None:
                    outcomes = _union(outcomes, happened)
                    self.orphans += self._orphans(happened, shown)
                events = _union(events, self._outcome_events(name, feed, happened, shown))
            elif isinstance(feed, EventsFeed):
                events = _union(events, self._events(name, feed))
            elif isinstance(feed, SequencesFeed):
                events = _union(events, self._sequences(name, feed))
        return Acts(shown, outcomes, events)

    def attributes(self, name: str, feed: AttributesFeed) -> DataFrame | None:
        """Judge a feed of states of users or ads."""
        judged = self._judge(name)
        return (
            None
            if judged is None
            else ingest.attributes(self._settle(name, judged, acts=False), feed)
        )

    def rejected(self) -> DataFrame | None:
        """The rows that were set aside, of all feeds judged so far; None where there are none."""
        if not self.quarantined:
            return None
        return reduce(lambda a, b: a.unionByName(b), self.quarantined)

    def columns(self) -> dict[str, dict[date, schemas.Columns]]:
        """Raw columns by feed and day."""
        return {name: self._columns(raw) for name, raw in self.raw.items()}

    def close(self) -> None:
        """Let go of the judged rows."""
        for frame in self._judged:
            frame.unpersist()

    def _columns(self, raw: RawFeed) -> dict[date, schemas.Columns]:
        first = self.contract.first_day
        return {day or first: columns for day, columns in raw.columns.items()}

    def _judge(self, name: str) -> DataFrame | None:
        """A feed's judged rows."""
        if name not in self.raw:
            return None
        late = self.config.windows.max_late_days
        return ingest.judge(self.raw[name].rows, name, self.contract, late)

    def _impressions(self) -> tuple[DataFrame | None, DataFrame | None]:
        """Impressions, and the outcomes that lie on their rows."""
        feed = self.contract.impressions
        name = next(n for n, f in self.contract.feeds.items() if f is feed)
        judged = self._judge(name)
        if judged is None:
            return None, None
        judged = self._settle(
            name, self._without_earlier(judged, "_impression_id", "impressions", feed)
        )
        self._erase_impressions(judged)
        shown = ingest.impressions(judged, self.contract)
        if not feed.outcomes:
            return shown, None
        return shown, ingest.inline_outcomes(judged, self.contract)

    def _outcomes(self, name: str, feed: OutcomesFeed) -> DataFrame | None:
        judged = self._judge(name)
        if judged is None:
            return None
        return ingest.outcomes(
            self._settle(name, self._without_earlier(judged, "_outcome_id", "outcomes", feed))
        )

    def _outcome_events(
        self,
        name: str,
        feed: OutcomesFeed,
        happened: DataFrame | None,
        shown: DataFrame | None,
    ) -> DataFrame | None:
        """Events of a feed's outcomes, and of earlier ones whose impression arrives only now."""
        from pyspark.sql import functions as F

        found = None
        about = self._known_impressions(shown)
        if happened is not None and about is not None:
            found = ingest.outcome_events(happened, about)
        late = [
            day
            for day in self._held("outcomes")
            if 0 < (self.days[0] - day).days <= self.config.windows.max_late_days
        ]
        if late and "{day}" in feed.path and shown is not None:
            earlier = read_table(self.spark, self.config.table("outcomes"), late)
            earlier = earlier.where(F.col("outcome_id").startswith(f"{name}:"))
            found = _union(found, ingest.outcome_events(earlier, shown))
        return found

    def _orphans(self, happened: DataFrame, shown: DataFrame | None) -> int:
        """Outcomes without an impression: kept, should it arrive late, but no events yet."""
        from pyspark.sql import functions as F

        mine = happened.where(F.col("day").isin(self.days))
        about = self._known_impressions(shown)
        if about is not None:
            known = about.where(F.col("day") <= self.days[-1]).select("impression_id")
            mine = mine.join(known, on="impression_id", how="left_anti")
        return mine.count()

    def _known_impressions(self, shown: DataFrame | None) -> DataFrame | None:
        """Impressions of this range and of the days before it."""
        earlier = [day for day in self._held("impressions") if day < self.days[0]]
        if not earlier or (shown is not None and "{day}" not in self.contract.impressions.path):
            return shown  # A one-file feed holds the earlier ones itself.
        held = read_table(self.spark, self.config.table("impressions"), earlier)
        return held if shown is None else held.unionByName(shown, allowMissingColumns=True)

    def _held(self, table: str) -> list[date]:
        return delta.partition_days(delta.open_table(self.config.table(table)))

    def _events(self, name: str, feed: EventsFeed) -> DataFrame | None:
        judged = self._judge(name)
        if judged is None:
            return None
        return ingest.organic_events(
            self._settle(name, self._without_earlier(judged, "_event_id", "events", feed))
        )

    def _sequences(self, name: str, feed: SequencesFeed) -> DataFrame | None:
        judged = self._judge(name)
        if judged is None:
            return None
        return ingest.sequence_events(self._settle(name, judged, acts=False), name, feed)

    def _without_earlier(self, judged: DataFrame, key: str, table: str, feed: Feed) -> DataFrame:
        """Mark copies of rows that arrived before this range; one file holds those rows itself."""
        earlier = [day for day in self._held(table) if day < self.days[0]]
        if not earlier or "{day}" not in feed.path:
            return judged
        known = read_table(self.spark, self.config.table(table), earlier)
        return verdicts.without_known(judged, key, known.select(key.removeprefix("_")))

    def _settle(self, name: str, judged: DataFrame, *, acts: bool = True) -> DataFrame:
        """Compute the verdicts once; count them and set rejected rows aside.

        Args:
            name: The feed.
            judged: Its judged rows.
            acts: Whether a row is an act of a user; of other rows only the rejected are counted.
        """
        judged = self._without_erased(name, judged).persist()
        self._judged.append(judged)
        first = self.contract.first_day
        counted = verdicts.count_verdicts(judged, first)
        for day, verdict, rows in counted:
            if day in self.days and (acts or verdict not in _KEPT):
                self.verdicts.append((name, day, verdict, rows))
        if any(day in self.days and verdict not in _HARMLESS for day, verdict, _ in counted):
            self.quarantined.append(verdicts.quarantine(judged, name, first))
        return judged

    def _without_erased(self, name: str, judged: DataFrame) -> DataFrame:
        feed = self.contract.feeds[name]
        kind, key = USER, "_user_id"
        if isinstance(feed, OutcomesFeed):
            kind, key = IMPRESSION, "_impression_id"
        elif isinstance(feed, AttributesFeed):
            key = "_entity_id" if feed.entity == "user" else ""
        if self._erased is None or not key or not self._erased.hashes[kind]:
            return judged
        return verdicts.without_erased(judged, key, self._erased.salt, self._erased.hashes[kind])

    def _erase_impressions(self, judged: DataFrame) -> None:
        """Remember impressions of erased users, for outcomes name no user."""
        if self._erased is None:
            return
        rows = judged.where(judged["_verdict"] == verdicts.ERASED).select("_impression_id")
        ids = [row[0] for row in rows.distinct().collect() if row[0] is not None]
        uri = self.config.table(ERASED)
        self._erased = add_erased(uri, {IMPRESSION: ids}, self.config.run.run_id)


_KEPT = {verdicts.OK, verdicts.DUPLICATE}
_HARMLESS = {*_KEPT, verdicts.NO_CONSENT, verdicts.ERASED}


@contextmanager
def contract_mistakes() -> Iterator[None]:
    """Tell an expression that Spark cannot resolve or compute as a mistake in the contract."""
    from pyspark.errors import (
        AnalysisException,
        ArithmeticException,
        DateTimeException,
        NumberFormatException,
    )

    try:
        yield
    except (
        AnalysisException,
        ArithmeticException,
        DateTimeException,
        NumberFormatException,
    ) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"contract: an expression does not fit the raw log: {first}; mend the contract, or "
            "declare the column's type in its feed's `columns`"
        ) from error


def _union(one: DataFrame | None, other: DataFrame | None) -> DataFrame | None:
    if one is None or other is None:
        return one if other is None else other
    return one.unionByName(other)
