"""What the table-building jobs share: which days they touch, and how they read and write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, log
from jobs.config import RunConfig, days_between
from jobs.contract import AttributesFeed
from jobs.ingest_log import attribute_table
from jobs.spark.features import with_attributes
from jobs.spark.tables import read_table, write_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Build:
    """One range of days being built in one session."""

    def __init__(self, config: RunConfig, spark: SparkSession) -> None:
        self.config = config
        self.contract = config.contract
        self.spark = spark

    @cached_property
    def shown_days(self) -> list[date]:
        """Days whose impressions or labels the run's arrival days may change.

        Late impressions reach back `max_late_days`; a label matures a window after its impression.
        """
        late = timedelta(days=self.config.windows.max_late_days)
        first = self.config.plan.first_day - max(late, self.longest_window)
        return days_between(first, self.config.plan.day)

    @cached_property
    def last_day(self) -> date:
        """Last arrival day that the tables hold: later than the run's day in a backfill."""
        held = delta.partition_days(delta.open_table(self.config.table("events")))
        return max([self.config.plan.day, *held])

    def arrived(self, reach: timedelta = timedelta()) -> list[date]:
        """Arrival days on which the touched days' impressions may lie, or rows up to `reach` later."""
        late = timedelta(days=self.config.windows.max_late_days) + reach
        return days_between(self.shown_days[0], min(self.shown_days[-1] + late, self.last_day))

    @cached_property
    def longest_window(self) -> timedelta:
        """The longest attribution window, in whole days."""
        windows = [task.window / timedelta(days=1) for task in self.contract.tasks.values()]
        return timedelta(days=math.ceil(max(windows)))

    def read(self, table: str, days: Sequence[date] | None = None) -> DataFrame:
        """Read a table."""
        return read_table(self.spark, self.config.table(table), days)

    def impressions(self) -> DataFrame:
        """Impressions shown on the touched days, whenever they arrived."""
        from pyspark.sql import functions as F

        rows = self.read("impressions", self.arrived())
        return rows.where(F.col("event_day").isin(self.shown_days))

    def with_attributes(self, rows: DataFrame, entity: str, on: str, at: str) -> DataFrame:
        """Add an entity's attributes as known at a moment."""
        feeds = self.contract.attribute_feeds(entity)
        for name, feed in self.contract.feeds.items():
            if isinstance(feed, AttributesFeed) and feed in feeds:
                names = [f"{entity}_{attribute}" for attribute in feed.attributes]
                rows = with_attributes(rows, self.read(attribute_table(name)), on, at, names)
        return rows

    def write(
        self, table: str, df: DataFrame, days: Sequence[date], order: Sequence[str], job: str
    ) -> JobSummary:
        """Replace days of a table; the summary names what was read and written."""
        inputs = self.versions()
        run = self.config.run
        written = write_days(
            df,
            self.config.table(table),
            days=days,
            order=order,
            commit={
                "run_id": run.run_id,
                "config_hash": run.config_hash,
                "code_hash": run.code_hash,
                "inputs": inputs,
            },
        )
        rows = sum(written.rows.values())
        log.info(
            "%s: %d rows, %d of %d days changed",
            table,
            rows,
            len(written.changed),
            len(written.rows),
        )
        return JobSummary(
            job=job, inputs=inputs, outputs={table: written.version}, rows={table: rows}
        )

    def versions(self) -> dict[str, int | None]:
        """Versions of the tables that rows are made from."""
        names = ["impressions", "outcomes", "events"]
        return {name: delta.latest_version(self.config.table(name)) for name in names}


def merged(job: str, parts: Sequence[JobSummary]) -> JobSummary:
    """One summary of several writes."""
    return JobSummary(
        job=job,
        inputs={k: v for part in parts for k, v in part.inputs.items()},
        outputs={k: v for part in parts for k, v in part.outputs.items()},
        rows={k: v for part in parts for k, v in part.rows.items()},
    )
