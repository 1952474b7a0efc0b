"""Read the raw log through its contract into events, impressions, outcomes and attributes.

Reads: the raw log. Writes: `impressions`, `outcomes`, `events`, `quarantine` and
`attributes_<feed>`, one commit per arrival day, the raw columns of every day in `schemas`, and
`events.json` in the run's folder (rows by day and verdict, for the gate). Guarantees: a row is kept
once, whatever copies arrive; a rejected row lies in quarantine with its reason; a day without rows
replaces nothing; a row of somebody who has been erased (`erased_users`) is counted and kept
nowhere; columns that no longer fit the contract stop the job before it writes. Where later
days are held already, the summary names those that may have to change: see `jobs.rebuild_days`.

    python -m jobs.ingest_log --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING, Any

from jobs import delta, schemas
from jobs.command import JobSummary, log, main, write_json
from jobs.config import RunConfig
from jobs.erased import IMPRESSION, USER, add_erased, read_erased
from jobs.erased import TABLE as ERASED
from jobs.errors import ConfigError
from jobs.feeds import AttributesFeed, EventsFeed, Feed, OutcomesFeed, SequencesFeed
from jobs.spark import ingest, verdicts
from jobs.spark.raw import RawFeed, read_feed
from jobs.spark.session import spark_session
from jobs.spark.tables import read_table, write_days

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

PROFILE = "events.json"
DERIVED = ("labels", "entity_features", "timelines", "examples")
"""Tables by day that are made of the ingested ones."""


def attribute_table(feed: str) -> str:
    """Table that holds an attributes feed."""
    return f"attributes_{feed}"


def run(config: RunConfig) -> JobSummary:
    """Ingest the run's arrival days in a session of its own."""
    with spark_session(config.resources, config.home, "ingest_log") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Ingest the run's arrival days in a given session."""
    return _Ingest(config, spark).run()


class _Ingest:
    """One ingest of a range of days; collects what it wrote."""

    def __init__(self, config: RunConfig, spark: SparkSession) -> None:
        self.config = config
        self.contract = config.contract
        self.spark = spark
        self.days = config.days
        self.outputs: dict[str, int | None] = {}
        self.rows: dict[str, int] = {}
        self.verdicts: list[tuple[str, date, str, int]] = []
        self.quarantined: list[DataFrame] = []
        self.judged: list[DataFrame] = []
        self.orphans = 0
        self.raw: dict[str, RawFeed] = {}
        self.schema_changes: list[str] = []
        self.erased = read_erased(config.table(ERASED))

    def run(self) -> JobSummary:
        with contract_mistakes():
            self._read()
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
            self._write("impressions", shown, ["event_ts", "impression_id"])
            self._write("outcomes", outcomes, ["impression_id", "outcome_id"])
            self._write("events", events, ["user_id", "known_ts", "event_ts", "event_id"])
            self._attributes()
            if self.quarantined:
                rejected = reduce(lambda a, b: a.unionByName(b), self.quarantined)
                self._write("quarantine", rejected, ["feed", "reason", "row"])
        self._record_columns()
        for frame in self.judged:
            frame.unpersist()
        return self._summary()

    def _read(self) -> None:
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

    def _columns(self, raw: RawFeed) -> dict[date, schemas.Columns]:
        first = self.contract.first_day
        return {day or first: columns for day, columns in raw.columns.items()}

    def _record_columns(self) -> None:
        found = {name: self._columns(raw) for name, raw in self.raw.items()}
        version = schemas.record(self.config.table(schemas.TABLE), found, self._commit())
        self.outputs[schemas.TABLE] = version

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

    def _open(self, table: str) -> DeltaTable | None:
        return delta.open_table(self.config.table(table))

    def _held(self, table: str) -> list[date]:
        return delta.partition_days(self._open(table))

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
        self.judged.append(judged)
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
        if self.erased is None or not key or not self.erased.hashes[kind]:
            return judged
        return verdicts.without_erased(judged, key, self.erased.salt, self.erased.hashes[kind])

    def _erase_impressions(self, judged: DataFrame) -> None:
        """Remember impressions of erased users, for outcomes name no user."""
        if self.erased is None:
            return
        rows = judged.where(judged["_verdict"] == verdicts.ERASED).select("_impression_id")
        ids = [row[0] for row in rows.distinct().collect() if row[0] is not None]
        uri = self.config.table(ERASED)
        self.erased = add_erased(uri, {IMPRESSION: ids}, self.config.run.run_id)

    def _attributes(self) -> None:
        for name, feed in self.contract.feeds.items():
            if not isinstance(feed, AttributesFeed):
                continue
            judged = self._judge(name)
            if judged is not None:
                rows = ingest.attributes(self._settle(name, judged, acts=False), feed)
                daily = "{day}" in feed.path
                days = self.days if daily else [self.contract.first_day]
                self._write(attribute_table(name), rows, ["entity_id", "known_ts"], days)

    def _write(
        self, table: str, df: DataFrame | None, order: list[str], days: list[date] | None = None
    ) -> None:
        if df is None:
            return
        from pyspark.sql import functions as F

        days = days or self.days
        kept = df.where(F.col("day").isin(days))
        uri = self.config.table(table)
        written = write_days(kept, uri, days=days, order=order, commit=self._commit())
        self.outputs[table] = written.version
        self.rows[table] = self.rows.get(table, 0) + sum(written.rows.values())
        log.info("%s: %d rows, %d days changed", table, self.rows[table], len(written.changed))

    def _commit(self) -> dict[str, Any]:
        run = self.config.run
        context = {"run_id": run.run_id, "config_hash": run.config_hash}
        return {**context, "code_hash": run.code_hash, "inputs": {}}

    def _stale_days(self) -> dict[str, list[str]]:
        """Days after the run's own that were made before one of the run's days was last changed.

        Of copies of a row the one on the earliest day is kept, and what is derived of a day reads
        the days before it. Told from the tables' versions, so that a repeat after a crash knows.
        """
        held = {table: delta.live_versions(self._open(table)) for table in self.outputs}
        changed = {
            table: max([version for day, version in days.items() if day in self.days], default=-1)
            for table, days in held.items()
        }
        last = self.days[-1]
        stale = {
            table: [day for day in days if day > last and days[day] < changed[table]]
            for table, days in held.items()
            if table not in ("quarantine", schemas.TABLE)
        }
        if any(stale.values()):
            stale |= {table: [d for d in self._held(table) if d > last] for table in DERIVED}
        return {t: [str(day) for day in sorted(days)] for t, days in stale.items() if days}

    def _summary(self) -> JobSummary:
        totals = Counter[str]()
        for _, _, verdict, rows in self.verdicts:
            totals[verdict] += rows
        profile = [
            {"feed": feed, "day": day.isoformat(), "verdict": verdict, "rows": rows}
            for feed, day, verdict, rows in self.verdicts
        ]
        write_json(self.config.run_folder / PROFILE, profile)
        stale = self._stale_days()
        if stale:
            log.warning(
                "days after %s may have changed with it; run jobs.rebuild_days with this "
                "run's configuration: %s",
                self.days[-1],
                stale,
            )
        others = {name: raw.num_others for name, raw in self.raw.items() if raw.num_others}
        told = {
            "schema_changes": self.schema_changes,
            "stale_days": stale,
            "rows_of_other_feeds": others,
        }
        return JobSummary(
            job="ingest_log",
            outputs=self.outputs,
            rows=self.rows,
            details={
                "verdicts": dict(totals),
                "days": len(self.days),
                "outcomes_without_impression": self.orphans,
                **{name: value for name, value in told.items() if value},
            },
        )


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


if __name__ == "__main__":
    main(run, __doc__)
