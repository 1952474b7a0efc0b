"""The tables that a label repair reads and replaces, at the versions that it found."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.config import Recipe, day_of, day_start, days_between
from jobs.days import longest_window
from jobs.learners import Learner, reaches
from jobs.repairs import TABLE, DayRepair, Repairs
from jobs.spark.columns import write_columns
from jobs.spark.examples import relabelling
from jobs.spark.labels import changed_labels, label_rows, late_outcomes
from jobs.spark.tables import read_table, write_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_MOMENT = pa.timestamp("us", "UTC")
_READ = ("labels", "examples", "impressions", "outcomes", "events")


class LabelTables:
    """Everything that bears on the labels of a family's log, as it was when the repair began."""

    def __init__(self, recipe: Recipe, home: str, spark: SparkSession) -> None:
        self.recipe = recipe
        self.spark = spark
        self._root = f"{home}/tables/{recipe.contract.name}"
        self._held = {name: delta.open_table(self.uri(name)) for name in _READ}
        self._paths = {name: delta.paths_by_day(self._held[name]) for name in _READ[:2]}
        self._ids = pa.chunked_array([], pa.string())
        self._shown = pa.table({})

    def uri(self, table: str) -> str:
        """Where a table lies."""
        return f"{self._root}/{table}"

    @property
    def versions(self) -> dict[str, int]:
        """Versions of the tables."""
        return {name: held.version() for name, held in self._held.items() if held is not None}

    @cached_property
    def labelled_days(self) -> set[date]:
        """Days of impressions with labels."""
        return {*delta.partition_days(self._held["labels"])}

    @cached_property
    def last_day(self) -> date:
        """Last arrival day: repaired labels count what was known by its end."""
        arrived = [delta.partition_days(self._held[name]) for name in ("outcomes", "events")]
        return max(day for days in arrived for day in days)

    def late(self, arrivals: Sequence[date]) -> dict[date, tuple[int, date]]:
        """(outcomes, last arrival day) by day of impressions, of outcomes that came late.

        Args:
            arrivals: Arrival days of the outcomes.
        """
        contract = self.recipe.contract
        arrived = self._late_arrivals(arrivals)
        if arrived.num_rows == 0:
            return {}
        self._ids = arrived["impression_id"].unique()
        first = pc.min(arrived["event_ts"]).as_py() - longest_window(contract)
        days = days_between(day_of(first, contract.time_zone), self.last_day)
        self._shown = self._of_late("impressions", days)
        found = late_outcomes(
            self.spark.createDataFrame(self._shown),
            self.spark.createDataFrame(arrived),
            contract.tasks,
            contract.time_zone,
        )
        return {row["day"]: (row["num_late"], row["last_day"]) for row in found.collect()}

    def _late_arrivals(self, arrivals: Sequence[date]) -> pa.Table:
        """Outcomes that arrived on a later day than they happened on: no other can be late."""
        zone, uri = self.recipe.contract.time_zone, self.uri("outcomes")
        parts = []
        for day in arrivals:
            began = pc.field("event_ts") < pa.scalar(day_start(day, zone), _MOMENT)
            parts.append(delta.read_days(uri, [day], None, self.versions["outcomes"], began))
        # In one piece: of several Spark takes the empty ones for the end.
        return pa.concat_tables(parts).combine_chunks()

    def _of_late(self, table: str, days: Sequence[date]) -> pa.Table:
        """Rows of the impressions that something came late for: few, so that no job reads them."""
        wanted = pc.field("impression_id").isin(self._ids)
        found = delta.read_days(self.uri(table), days, None, self.versions[table], wanted)
        return found.combine_chunks()

    def rows(self, days: Sequence[date], until: Mapping[date, date]) -> DataFrame:
        """The labels of days, counting what is known until the days that their repairs name."""
        labelled = [day for day in days if day in self.labelled_days]
        first = min(labelled, default=self.last_day)
        outcomes = self._read("outcomes", days_between(first, self.last_day))
        return self._labels(self._impressions(labelled), outcomes, labelled, until)

    def changed(self, days: Sequence[date], until: Mapping[date, date]) -> list[dict[str, Any]]:
        """Mature labels of days that differ from what the table holds, after `late`.

        Args:
            days: Days of impressions that something came late for.
            until: As `rows` takes it.
        """
        if not days:
            return []
        shown = self._shown.filter(pc.is_in(self._shown["event_day"], pa.array(days)))
        impressions = self.spark.createDataFrame(shown)
        outcomes = self._of_late("outcomes", days_between(min(days), self.last_day))
        rows = self._labels(impressions, self.spark.createDataFrame(outcomes), days, until)
        held = self.spark.createDataFrame(self._of_late("labels", days))
        changed = changed_labels(held, rows, impressions, self.recipe.contract.tasks)
        return changed.toArrow().to_pylist()

    def _labels(
        self,
        impressions: DataFrame,
        outcomes: DataFrame,
        days: Sequence[date],
        until: Mapping[date, date],
    ) -> DataFrame:
        return label_rows(
            impressions,
            outcomes,
            self.recipe.contract.tasks,
            max(delta.partition_days(self._held["events"]), default=self.last_day),
            self.recipe.contract.time_zone,
            {day: until[day] for day in days if day in until},
        )

    def day_repair(
        self,
        day: date,
        num_late: int,
        changed: Sequence[dict[str, Any]],
        known: Sequence[Learner],
    ) -> DayRepair:
        """What a repair does to a day.

        Args:
            day: Day of impressions.
            num_late: Outcomes that came late.
            changed: Its labels that change.
            known: Registered versions that may have learnt them.
        """
        kinds = Counter((row["column"], row["before"], row["after"]) for row in changed)
        stale = []
        for one in known:
            reach = reaches(self.recipe)[one.name]
            num = sum(
                row["surface"] in reach.surfaces
                and row["task"] in reach.tasks
                and one.learnt(row["mature_ts"])
                for row in changed
            )
            if num:
                about = {"name": one.name, "version": one.version, "run_id": one.run_id}
                stale.append({**about, "num_labels": num})
        return DayRepair(
            day=day,
            until=self.last_day,
            num_late=num_late,
            num_impressions=len({row["impression_id"] for row in changed}),
            changes=[
                {"column": column, "before": before, "after": after, "num_labels": num}
                for (column, before, after), num in sorted(kinds.items())
            ],
            stale=stale,
        )

    def write(
        self, repairs: Repairs, rows: DataFrame, hashes: dict[str, str]
    ) -> dict[str, int | None]:
        """Replace the labels of the days that are decided on, then those of their examples.

        Returns:
            Versions of the tables afterwards.

        Raises:
            StaleSnapshot: Another writer replaced one of the days meanwhile.
        """
        days = [day for day in repairs.pending if day in self.labelled_days]
        inputs = {name: self.versions[name] for name in ("impressions", "outcomes")}
        commit = {"run_id": f"repair-{repairs.number:06d}", **hashes}
        labels = self._replace_labels(
            rows, days, {**commit, "inputs": {**inputs, TABLE: repairs.version}}
        )
        if self._held["examples"] is None:
            return {"labels": labels}
        held = delta.partition_days(self._held["examples"])
        days = [day for day in days if day in held]
        made_from = {"labels": labels, "examples": self.versions["examples"]}
        uris, contract = (self.uri("examples"), self.uri("labels")), self.recipe.contract
        again = relabelling(self.spark, *uris, days, contract, made_from)
        written = write_columns(
            again.tasks,
            again.function,
            again.columns,
            self.uri("examples"),
            days=days,
            commit={**commit, "inputs": made_from},
            expected=self._paths["examples"],
        )
        return {"labels": labels, "examples": written.version}

    def _replace_labels(
        self, rows: DataFrame, days: Sequence[date], commit: dict[str, Any]
    ) -> int | None:
        from pyspark.sql import functions as F

        written = write_days(
            rows.where(F.col("day").isin(list(days))),
            self.uri("labels"),
            days=days,
            order=["event_ts", "impression_id"],
            commit=commit,
            expected=self._paths["labels"],
        )
        return written.version

    def _impressions(self, days: Iterable[date]) -> DataFrame:
        """Impressions shown on days, whenever they arrived."""
        from pyspark.sql import functions as F

        shown = list(days)
        late = self.recipe.windows.max_late_days
        arrivals = {day + timedelta(days=n) for day in shown for n in range(late + 1)}
        return self._read("impressions", sorted(arrivals)).where(F.col("event_day").isin(shown))

    def _read(self, table: str, days: Sequence[date]) -> DataFrame:
        return read_table(self.spark, self.uri(table), days, self.versions[table])
