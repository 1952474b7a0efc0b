"""Read the raw log through its contract into events, impressions, outcomes and attributes.

Reads: the raw log. Writes: `impressions`, `outcomes`, `events`, `quarantine` and
`attributes_<feed>`, one commit per arrival day, and `events.json` in the run's folder (rows by day
and verdict, for the gate). Guarantees: a row is kept once, whatever copies arrive; a
rejected row lies in quarantine with its reason; a day without rows replaces nothing.

    python -m jobs.ingest_log --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, log, main, write_json
from jobs.config import RunConfig
from jobs.contract import AttributesFeed, EventsFeed, OutcomesFeed, SequencesFeed
from jobs.errors import ConfigError
from jobs.spark import ingest
from jobs.spark.raw import read_feed
from jobs.spark.session import spark_session
from jobs.spark.tables import read_table, write_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PROFILE = "events.json"


def attribute_table(feed: str) -> str:
    """Table that holds an attributes feed."""
    return f"attributes_{feed}"


def run(config: RunConfig) -> JobSummary:
    """Ingest the run's arrival days."""
    with spark_session(config.resources, config.home, "ingest_log") as spark:
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
        self.orphans = 0

    def run(self) -> JobSummary:
        with _contract_mistakes():
            shown, outcomes, events = self._impressions()
            for name, feed in self.contract.feeds.items():
                if isinstance(feed, OutcomesFeed):
                    outcomes, events = self._outcomes(name, feed, shown, outcomes, events)
                elif isinstance(feed, EventsFeed):
                    events = _union(events, self._events(name, feed))
                elif isinstance(feed, SequencesFeed):
                    raw = self._read(name)
                    if raw is not None:
                        events = _union(events, ingest.sequence_events(raw, feed, self.contract))
            self._write("impressions", shown, ["event_ts", "impression_id"])
            self._write("outcomes", outcomes, ["impression_id", "outcome_id"])
            self._write("events", events, ["user_id", "known_ts", "event_ts", "event_id"])
            self._attributes()
            if self.quarantined:
                rejected = reduce(lambda a, b: a.unionByName(b), self.quarantined)
                self._write("quarantine", rejected, ["feed", "reason", "row"])
        return self._summary()

    def _read(self, name: str) -> DataFrame | None:
        feed = self.contract.feeds[name]
        return read_feed(self.spark, name, feed, self.config.log_uri, self.days)

    def _impressions(self) -> tuple[DataFrame | None, DataFrame | None, DataFrame | None]:
        name = next(n for n, f in self.contract.feeds.items() if f is self.contract.impressions)
        raw = self._read(name)
        if raw is None:
            return None, None, None
        judged = ingest.judge_impressions(raw, self.contract, self.config.windows.max_late_days)
        judged = self._without_earlier(judged, "_impression_id", "impressions", name)
        judged = self._settle(name, judged)
        shown = ingest.impressions(judged, self.contract)
        events = ingest.impression_events(shown)
        if not self.contract.impressions.outcomes:
            return shown, None, events
        outcomes = ingest.inline_outcomes(judged, self.contract)
        return shown, outcomes, _union(events, ingest.outcome_events(outcomes, shown))

    def _outcomes(
        self,
        name: str,
        feed: OutcomesFeed,
        shown: DataFrame | None,
        outcomes: DataFrame | None,
        events: DataFrame | None,
    ) -> tuple[DataFrame | None, DataFrame | None]:
        raw = self._read(name)
        if raw is None:
            return outcomes, events
        judged = ingest.judge_outcomes(raw, feed, self.contract)
        judged = self._without_earlier(judged, "_outcome_id", "outcomes", name)
        happened = ingest.outcomes(self._settle(name, judged))
        uri = self.config.table("impressions")
        about = [shown.drop("day")] if shown is not None else []
        earlier = [d for d in delta.partition_days(delta.open_table(uri)) if d < self.days[0]]
        if earlier:
            about.append(read_table(self.spark, uri, earlier).drop("day"))
        if about:
            known = about[0] if len(about) == 1 else about[0].unionByName(about[1])
            events = _union(events, ingest.outcome_events(happened, known))
            # Kept as outcomes, should their impression arrive late; counted, as they are no events.
            self.orphans += happened.join(known, on="impression_id", how="left_anti").count()
        return _union(outcomes, happened), events

    def _events(self, name: str, feed: EventsFeed) -> DataFrame | None:
        raw = self._read(name)
        if raw is None:
            return None
        judged = ingest.judge_events(raw, feed, self.contract)
        judged = self._without_earlier(judged, "_event_id", "events", name)
        return ingest.organic_events(self._settle(name, judged))

    def _without_earlier(self, judged: DataFrame, key: str, table: str, feed: str) -> DataFrame:
        """Copies of rows that arrived before this range; a one-file feed holds those rows itself."""
        if "{day}" not in self.contract.feeds[feed].path:
            return judged
        uri = self.config.table(table)
        earlier = [d for d in delta.partition_days(delta.open_table(uri)) if d < self.days[0]]
        if not earlier:
            return judged
        known = read_table(self.spark, uri, earlier).select(key.removeprefix("_"))
        return ingest.without_known(judged, key, known)

    def _settle(self, name: str, judged: DataFrame) -> DataFrame:
        """Compute the verdicts once; count them and set rejected rows aside."""
        judged = judged.persist()
        first = self.contract.first_day
        wanted = set(self.days)
        for day, verdict, rows in ingest.count_verdicts(judged, first):
            if day in wanted:
                self.verdicts.append((name, day, verdict, rows))
        if any(f == name and v not in _HARMLESS for f, _, v, _ in self.verdicts):
            self.quarantined.append(ingest.quarantine(judged, name, first))
        return judged

    def _attributes(self) -> None:
        for name, feed in self.contract.feeds.items():
            if not isinstance(feed, AttributesFeed):
                continue
            raw = self._read(name)
            if raw is not None:
                rows = ingest.attributes(raw, feed, self.contract)
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
        context = {"run_id": self.config.run.run_id, "config_hash": self.config.run.config_hash}
        commit = {**context, "code_hash": self.config.run.code_hash, "inputs": {}}
        written = write_days(kept, self.config.table(table), days=days, order=order, commit=commit)
        self.outputs[table] = written.version
        self.rows[table] = self.rows.get(table, 0) + sum(written.rows.values())
        log.info("%s: %d rows, %d days changed", table, self.rows[table], len(written.changed))

    def _summary(self) -> JobSummary:
        totals = Counter[str]()
        for _, _, verdict, rows in self.verdicts:
            totals[verdict] += rows
        profile = [
            {"feed": feed, "day": day.isoformat(), "verdict": verdict, "rows": rows}
            for feed, day, verdict, rows in self.verdicts
        ]
        write_json(self.config.run_folder / PROFILE, profile)
        return JobSummary(
            job="ingest_log",
            outputs=self.outputs,
            rows=self.rows,
            details={
                "verdicts": dict(totals),
                "days": len(self.days),
                "outcomes_without_impression": self.orphans,
            },
        )


_HARMLESS = {ingest.OK, ingest.DUPLICATE, ingest.NO_CONSENT}


@contextmanager
def _contract_mistakes() -> Iterator[None]:
    """Tell an expression that Spark cannot resolve as a mistake in the contract."""
    from pyspark.errors import AnalysisException, ParseException

    try:
        yield
    except (AnalysisException, ParseException) as error:
        first = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"contract: an expression does not fit the raw log: {first}; mend the contract"
        ) from error


def _union(one: DataFrame | None, other: DataFrame | None) -> DataFrame | None:
    if one is None or other is None:
        return one if other is None else other
    return one.unionByName(other)


if __name__ == "__main__":
    main(run, __doc__)
