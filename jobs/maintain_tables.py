"""Keep a family's tables small: compact, checkpoint, cut the log, delete what nobody needs.

Reads and rewrites every Delta table of a family, and the packed arrays of its runs. Guarantees: no
row and no digest of a live day changes; every version that a registered model was trained on stays
readable; what a run may still be reading stays for the recipe's `maintenance.retention_days`; a
day that somebody replaces meanwhile stays as they left it; twice changes nothing.

Scores (`teacher_scores/*`) and users' vectors (`user_embeddings`) have one file a day as they are
written; tables without days (ledger, vocabulary, reports of gates) are only cut and cleaned.

    python -m jobs.maintain_tables --recipe kuairand --dry-run
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import delta
from jobs.command import JobSummary, log
from jobs.config import Recipe
from jobs.pins import Pins, read_pins
from jobs.recipe_command import recipe_main, recipe_parser
from jobs.run_folders import packed_folders
from jobs.spark.session import spark_session
from jobs.table_files import (
    TableFiles,
    add_checkpoint,
    delete_files,
    family_tables,
    table_files,
    trim_log,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run(
    recipe: Recipe,
    home: str,
    *,
    dry_run: bool = False,
    now: datetime | None = None,
    spark: SparkSession | None = None,
) -> JobSummary:
    """Maintain a family's tables.

    Args:
        recipe: Names the family, and says how long what is kept.
        home: Root of all state.
        dry_run: Whether only to report.
        now: The moment up to which ages are counted; the present if None.
        spark: Session to compact in; one of its own if None.

    Raises:
        ConfigError: It is not known which versions a registered model was trained on.
    """
    started = time.time()
    pins = read_pins(recipe, home)
    job = _Maintenance(recipe, home, pins, now or datetime.now(UTC))
    tables = job.report() if dry_run else job.maintain(spark)
    days = recipe.maintenance.packed_retention_days
    cutoff = datetime.min.replace(tzinfo=UTC) if days is None else job.now - timedelta(days=days)
    packed = packed_folders(home, recipe.contract.name, cutoff)
    for folder in [] if dry_run else packed:
        shutil.rmtree(folder)
    return JobSummary(
        job="maintain_tables",
        inputs={name: job.before[name].version for name in job.names},
        outputs={name: values["after"]["version"] for name, values in tables.items()},
        details={"dry_run": dry_run, "tables": tables, "packed_folders": len(packed)},
        started=started,
        seconds=round(time.time() - started, 2),
    )


class _Maintenance:
    """One pass over a family's tables."""

    def __init__(self, recipe: Recipe, home: str, pins: Pins, now: datetime) -> None:
        self.recipe = recipe
        self.home = home
        self.pins = pins
        self.now = now
        self.settings = recipe.maintenance
        self.root = Path(home) / "tables" / recipe.contract.name
        self.names = family_tables(self.root)
        self.before = {name: self._files(name) for name in self.names}

    def report(self) -> dict[str, Any]:
        """What there is, and what would be done."""
        told = {}
        for name in self.names:
            gone = trim_log(self._uri(name), self._pinned(name), self._log_cutoff(), dry_run=True)
            done = {"days_to_compact": len(self._fragmented(name)), "log_entries_to_cut": len(gone)}
            told[name] = _told(self.before[name], self.before[name], done)
        return told

    def maintain(self, spark: SparkSession | None) -> dict[str, Any]:
        """Do it, table by table."""
        work = {name: days for name in self.names if (days := self._fragmented(name))}
        compacted = {}
        if work:
            resources = self.recipe.resources
            with (
                nullcontext(spark)
                if spark
                else spark_session(resources, self.home, "maintain_tables") as session
            ):
                compacted = {n: self._compact(session, n, days) for n, days in work.items()}
        told = {}
        for name in self.names:
            uri, pinned = self._uri(name), self._pinned(name)
            add_checkpoint(uri, self.settings.checkpoint_commits)
            cut = trim_log(uri, pinned, self._log_cutoff())
            found = self._files(name)
            delete_files(uri, [*found.expired, *found.orphans])
            done = {"days_compacted": compacted.get(name, 0), "log_entries_cut": len(cut)}
            told[name] = _told(self.before[name], self._files(name), done)
            log.info("%s: %s", name, json.dumps(told[name]["after"]))
        return told

    def _compact(
        self, spark: SparkSession, name: str, days: list[tuple[delta.PartitionCommit, int]]
    ) -> int:
        from jobs.spark.compaction import compact_day

        done = 0
        label = f"maintenance-{self.now:%Y%m%dT%H%M%S}"
        for commit, num_files in days:
            try:
                compact_day(spark, self._uri(name), commit, num_files, label)
            except delta.StaleSnapshot as error:
                log.info("%s: %s", name, error)
            else:
                done += 1
        return done

    def _fragmented(self, name: str) -> list[tuple[delta.PartitionCommit, int]]:
        """Days in more files than their bytes need, each with the number that they need."""
        table = delta.open_table(self._uri(name))
        sizes = self.before[name].live
        found = []
        for _, commit in sorted(delta.live_commits(table).items()):
            total = sum(sizes.get(path, 0) for path in commit.files)
            needed = max(1, -(-total // self.settings.target_file_bytes))
            if needed < len(commit.files):
                found.append((commit, needed))
        return found

    def _uri(self, name: str) -> str:
        return str(self.root / name)

    def _pinned(self, name: str) -> list[int]:
        return sorted(self.pins.get(name, {}))

    def _files(self, name: str) -> TableFiles:
        cutoff = self.now - timedelta(days=self.settings.retention_days)
        return table_files(self._uri(name), self._pinned(name), cutoff)

    def _log_cutoff(self) -> datetime:
        return self.now - timedelta(days=self.settings.log_retention_days)


def _told(before: TableFiles, after: TableFiles, done: dict[str, int]) -> dict[str, Any]:
    return {**done, "before": before.sizes, "after": after.sizes}


def _main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--dry-run", action="store_true", help="report, change nothing")
    recipe_main(parser, lambda recipe, home, told: run(recipe, home, dry_run=told.dry_run))


if __name__ == "__main__":
    _main()
