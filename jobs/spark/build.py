"""What the table-building jobs share: which days they touch, and how they read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jobs import days, delta
from jobs.command import JobSummary, log
from jobs.config import RunConfig
from jobs.emptied import drop_days, may_be_empty
from jobs.errors import ConfigError
from jobs.feeds import AttributesFeed, attribute_table
from jobs.spark.attributes import with_attributes
from jobs.spark.columns import write_columns
from jobs.spark.scans import ColumnsFunction, scan_days
from jobs.spark.tables import TableWrite, read_table, write_days
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Build:
    """One range of days being built in one session.

    Args:
        config: The run's configuration.
        spark: Session.
        writes: Table that is built. Of two runs that build a day of it at the same time, the one
            that began to read earlier fails if the other has written meanwhile.
    """

    def __init__(self, config: RunConfig, spark: SparkSession, writes: str | None = None) -> None:
        self.config = config
        self.contract = config.contract
        self.spark = spark
        self.inputs: dict[str, int | None] = {}
        """Versions of the tables that were read."""
        self.expected = {}
        if writes is not None:
            self.expected[writes] = delta.paths_by_day(delta.open_table(config.table(writes)))

    @cached_property
    def shown_days(self) -> list[date]:
        """Days whose impressions or labels the run may change."""
        return days.shown_days(self.config)

    def read(
        self,
        table: str,
        wanted: Sequence[date] | None = None,
        empty: tables.Columns | None = None,
    ) -> DataFrame:
        """Read days of a table, always at the version that the first read found.

        Args:
            table: Name.
            wanted: Days; all if None.
            empty: Columns of a table that may not be there yet, for want of any row.
        """
        version = self._read_version(table)
        if version is None and empty is not None:
            schema = ", ".join(f"`{name}` {kind}" for name, kind in empty.items())
            return self.spark.createDataFrame([], schema)
        return read_table(self.spark, self.config.table(table), wanted, version)

    def map_columns(
        self,
        table: str,
        wanted: Sequence[date],
        columns: Sequence[str],
        function: ColumnsFunction,
        result: tables.Columns,
        few_values: Sequence[str] = (),
    ) -> DataFrame:
        """Apply a function to columns of a table: see `jobs.spark.scans`.

        Args:
            table: Name.
            wanted: Days; those that the table lacks yield no rows.
            columns: Columns to read.
            function: From batches of them to batches of `result`.
            result: Columns of the result.
            few_values: Columns of texts, to be read as dictionaries.
        """
        version = self._read_version(table)
        uri = self.config.table(table)
        scan = scan_days(self.spark, uri, wanted, columns, version, few_values)
        return scan.map(function, result)

    def require(self, table: str, wanted: Sequence[date]) -> None:
        """Refuse to count a missing day as a day on which nothing happened.

        Args:
            table: Table with a row for something on every day from its first on.
            wanted: Days that are about to be read.

        Raises:
            ConfigError: A day with events, later than the table's first, is not in the table.
        """
        held = delta.partition_days(delta.open_table(self.config.table(table)))
        seen = delta.partition_days(delta.open_table(self.config.table("events")))
        holes = sorted(day for day in {*wanted} & {*seen} - {*held} if held and day > held[0])
        if holes:
            raise ConfigError(
                f"{table}: no rows for {', '.join(map(str, holes))}, though there are events; "
                f"run jobs.build_features in a run of that day (jobs.resolve_config --day "
                f"{holes[0]}), then this job again"
            )

    def require_any(self, table: str) -> None:
        """Refuse to take a table that was never written for one without rows.

        Raises:
            ConfigError: No such table.
        """
        if self.version(table) is None:
            raise ConfigError(f"{table}: no such table yet; run the job that writes it first")

    def impressions(self, shown: Sequence[date] | None = None) -> DataFrame:
        """Impressions shown on touched days (all of them if None), whenever they arrived."""
        from pyspark.sql import functions as F

        wanted = self.shown_days if shown is None else list(shown)
        rows = self.read("impressions", days.arrival_days(self.config, wanted))
        return rows.where(F.col("event_day").isin(wanted))

    def with_attributes(self, rows: DataFrame, entity: str, on: str, at: str) -> DataFrame:
        """Add an entity's attributes as known at a moment, but no text that is content alone."""
        feeds = self.contract.attribute_feeds(entity)
        for feed_name, feed in self.contract.feeds.items():
            if isinstance(feed, AttributesFeed) and feed in feeds:
                names = [f"{entity}_{attribute}" for attribute in feed.attributes]
                names = [name for name in names if name not in self.contract.unread_texts]
                if names:
                    empty = tables.attributes(names, self.contract.features.bags)
                    states = self.read(attribute_table(feed_name), empty=empty)
                    rows = with_attributes(rows, states, on, at, names)
        return rows

    def write(
        self,
        table: str,
        df: DataFrame,
        replaced: Sequence[date],
        order: Sequence[str],
        job: str,
        made_from: Mapping[date, dict[str, int | None]] | None = None,
    ) -> JobSummary:
        """Replace days of a table; the summary names what was read and written."""
        written = write_days(
            df,
            self.config.table(table),
            days=replaced,
            order=order,
            commit=self._commit(),
            expected=self.expected.get(table),
            made_from=made_from,
        )
        return self._finish(table, written, replaced, job)

    def write_columns(
        self,
        table: str,
        rows: DataFrame,
        function: ColumnsFunction,
        columns: tables.Columns,
        replaced: Sequence[date],
        job: str,
        differences: Sequence[str] = (),
        made_from: Mapping[date, dict[str, int | None]] | None = None,
    ) -> JobSummary:
        """Replace days of a table by what a function makes: see `jobs.spark.columns`."""
        written = write_columns(
            rows,
            function,
            columns,
            self.config.table(table),
            days=replaced,
            commit=self._commit(),
            expected=self.expected.get(table),
            differences=differences,
            made_from=made_from,
        )
        return self._finish(table, written, replaced, job)

    def unchanged(
        self, table: str, settled: Mapping[date, dict[str, int | None]], job: str
    ) -> JobSummary:
        """The summary of a job that finds all of its days as they would become again."""
        log.info("%s: no row to make, 0 of %d days changed", table, len(settled))
        inputs = {**settled[max(settled)], **self.inputs}
        return JobSummary(
            job=job, inputs=inputs, outputs={table: self.version(table)}, rows={table: 0}
        )

    def _commit(self) -> dict[str, Any]:
        run = self.config.run
        return {
            "run_id": run.run_id,
            "config_hash": run.config_hash,
            "code_hash": run.code_hash,
            "inputs": self.inputs,
        }

    def _finish(
        self, table: str, written: TableWrite, replaced: Sequence[date], job: str
    ) -> JobSummary:
        without = may_be_empty(self.config, [day for day in replaced if day not in written.rows])
        drop_days(self.config.table(table), without, self._commit(), self.expected.get(table))
        rows = sum(written.rows.values())
        log.info(
            "%s: %d rows, %d of %d days changed",
            table,
            rows,
            len(written.changed),
            len(written.rows),
        )
        return JobSummary(
            job=job,
            inputs=dict(self.inputs),
            outputs={table: self.version(table)},
            rows={table: rows},
        )

    def _read_version(self, table: str) -> int | None:
        """The version that the first read of a table found."""
        if table not in self.inputs:
            self.inputs[table] = self.version(table)
        return self.inputs[table]

    def version(self, table: str) -> int | None:
        """Newest version of a table."""
        return delta.latest_version(self.config.table(table))


def merged(job: str, parts: Sequence[JobSummary]) -> JobSummary:
    """One summary of several writes."""
    return JobSummary(
        job=job,
        inputs={k: v for part in parts for k, v in part.inputs.items()},
        outputs={k: v for part in parts for k, v in part.outputs.items()},
        rows={k: v for part in parts for k, v in part.rows.items()},
    )
