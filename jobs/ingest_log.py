"""Read the raw log through its contract into events, impressions, outcomes and attributes.

Reads: the raw log. Writes: `impressions`, `outcomes`, `events`, `quarantine` and
`attributes_<feed>`, one commit per arrival day, the raw columns of every day in `schemas`, and
`events.json` in the run's folder (rows by day and verdict, for the gate). Guarantees: a row is kept
once, whatever copies arrive; a rejected row lies in quarantine with its reason; a day without rows
replaces nothing, unless it is one of `windows.empty_days`; a row of somebody who has been erased
(`erased_users`) is counted and kept nowhere; columns that no longer fit the contract stop the job
before it writes. Where later days are held already, the summary names those that may have to
change: see `jobs.rebuild_days`.

    python -m jobs.ingest_log --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any

from jobs import delta, schemas
from jobs.command import JobSummary, log, main, write_json
from jobs.config import RunConfig
from jobs.days import stale_days
from jobs.emptied import check_declared, drop_days
from jobs.feeds import AttributesFeed, attribute_table
from jobs.spark.arrivals import Arrivals, contract_mistakes
from jobs.spark.session import spark_session
from jobs.spark.tables import write_days

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

PROFILE = "events.json"


def run(config: RunConfig) -> JobSummary:
    """Ingest the run's arrival days in a session of its own."""
    with spark_session(config.resources, config.home, "ingest_log") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Ingest the run's arrival days in a given session."""
    check_declared(config)
    return _Ingest(config, spark).run()


class _Ingest:
    """One ingest of a range of days; collects what it wrote."""

    def __init__(self, config: RunConfig, spark: SparkSession) -> None:
        self.config = config
        self.arrivals = Arrivals(config, spark)
        names = ("impressions", "outcomes", "events", "quarantine", *attribute_tables(config))
        self.before = {name: delta.paths_by_day(self._open(name)) for name in names}
        """Files by table and day before the log was read: of two ingests of a day the one that
        began earlier fails, so that older rows never replace newer ones."""
        self.outputs: dict[str, int | None] = {}
        self.rows: dict[str, int] = {}
        self.emptied: dict[str, list[date]] = {}
        """Declared days that a table lost, for the log has no row of them."""
        self.kept: dict[str, list[date]] = {}
        """Days of which a table keeps what it held, though the log has no row of them."""

    def run(self) -> JobSummary:
        try:
            with contract_mistakes():
                self.arrivals.read()
                self._write_all()
        finally:
            # Left in the session, judged rows would pass for those of a repeat.
            self.arrivals.close()
        uri, columns = self.config.table(schemas.TABLE), self.arrivals.columns()
        self.outputs[schemas.TABLE] = schemas.record(uri, columns, self._commit())
        return self._summary()

    def _write_all(self) -> None:
        acts = self.arrivals.acts()
        self._write("impressions", acts.impressions, ["event_ts", "impression_id"])
        self._write("outcomes", acts.outcomes, ["impression_id", "outcome_id"])
        self._write("events", acts.events, ["user_id", "known_ts", "event_ts", "event_id"])
        for table, (name, feed) in attribute_tables(self.config).items():
            daily = "{day}" in feed.path
            days = self.config.days if daily else [self.config.contract.first_day]
            states = self.arrivals.attributes(name, feed)
            self._write(table, states, ["entity_id", "known_ts"], days)
        self._write("quarantine", self.arrivals.rejected(), ["feed", "reason", "row"])

    def _write(
        self, table: str, df: DataFrame | None, order: list[str], days: list[date] | None = None
    ) -> None:
        from pyspark.sql import functions as F

        days = days or self.config.days
        uri = self.config.table(table)
        found: dict[date, int] = {}
        if df is not None:
            rows = df.where(F.col("day").isin(days))
            written = write_days(
                rows,
                uri,
                days=days,
                order=order,
                commit=self._commit(),
                expected=self.before[table],
            )
            found = written.rows
            self.outputs[table] = written.version
            self.rows[table] = sum(found.values())
            log.info("%s: %d rows, %d days changed", table, self.rows[table], len(written.changed))
        self._leave(table, [day for day in days if day not in found])

    def _leave(self, table: str, without: list[date]) -> None:
        """Take the declared ones of days without rows out of a table; tell what stays of others."""
        uri = self.config.table(table)
        declared = [day for day in without if day in self.config.windows.empty_days]
        if declared:
            self.emptied[table] = drop_days(uri, declared, self._commit(), self.before[table])
            self.outputs[table] = delta.latest_version(uri)
        held = delta.partition_days(self._open(table)) if without else []
        self.kept[table] = [day for day in without if day in held]

    def _open(self, table: str) -> DeltaTable | None:
        return delta.open_table(self.config.table(table))

    def _commit(self) -> dict[str, Any]:
        run = self.config.run
        context = {"run_id": run.run_id, "config_hash": run.config_hash}
        return {**context, "code_hash": run.code_hash, "inputs": {}}

    def _summary(self) -> JobSummary:
        verdicts = self.arrivals.verdicts
        totals = Counter[str]()
        for _, _, verdict, rows in verdicts:
            totals[verdict] += rows
        profile = [
            {"feed": feed, "day": day.isoformat(), "verdict": verdict, "rows": rows}
            for feed, day, verdict, rows in verdicts
        ]
        write_json(self.config.run_folder / PROFILE, profile)
        judged = [name for name in self.outputs if name not in ("quarantine", schemas.TABLE)]
        stale, kept = stale_days(self.config, judged), _texts(self.kept)
        if kept:
            log.warning(
                "the log has no row for days that the tables hold; their rows stay. If they are to "
                "go, resolve a run with these days in windows.empty_days: %s",
                kept,
            )
        if stale:
            log.warning(
                "days after %s may have changed with it; run jobs.rebuild_days with this "
                "run's configuration: %s",
                self.config.days[-1],
                stale,
            )
        raw = self.arrivals.raw
        others = {name: feed.num_others for name, feed in raw.items() if feed.num_others}
        told = {
            "schema_changes": self.arrivals.schema_changes,
            "emptied_days": _texts(self.emptied),
            "kept_days": kept,
            "stale_days": stale,
            "rows_of_other_feeds": others,
        }
        return JobSummary(
            job="ingest_log",
            outputs=self.outputs,
            rows=self.rows,
            details={
                "verdicts": dict(totals),
                "days": len(self.config.days),
                "outcomes_without_impression": self.arrivals.orphans,
                **{name: value for name, value in told.items() if value},
            },
        )


def attribute_tables(config: RunConfig) -> dict[str, tuple[str, AttributesFeed]]:
    """Tables of states, each with its feed and the feed's name."""
    feeds = config.contract.feeds.items()
    return {attribute_table(n): (n, f) for n, f in feeds if isinstance(f, AttributesFeed)}


def _texts(days: dict[str, list[date]]) -> dict[str, list[str]]:
    return {table: [str(day) for day in found] for table, found in days.items() if found}


if __name__ == "__main__":
    main(run, __doc__)
