"""Repair the labels of the days that late outcomes belong to, and name the models they taught.

Reads `impressions`, `outcomes`, `labels`, `examples` and the model registry. Looks at the outcomes
that arrived since the last repair; where one came after its label had matured, the day's labels
are built again, now counting everything known by the last arrival day, and the label columns of
its examples follow. Writes `labels` and `examples`, one commit per touched day, and the ledger
`label_repairs`: what changed, and which registered versions had learnt it, which are tagged stale.
Guarantees: days that no late outcome touches keep their files; a second repair changes nothing;
one that died is carried out by the next; building a repaired day again leaves it repaired.

    python -m jobs.repair_labels --recipe kuairand
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

from jobs import delta
from jobs.command import JobSummary, log
from jobs.config import Recipe
from jobs.errors import ConfigError
from jobs.learners import learners, mark_stale, stale_notes
from jobs.recipe_command import recipe_main, recipe_parser
from jobs.repairs import TABLE, DayRepair, Repairs, append, read_repairs
from jobs.resolve_config import code_hash
from jobs.spark.repair import LabelTables
from jobs.spark.session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run(recipe: Recipe, home: str) -> JobSummary:
    """Repair what there is to repair; without new outcomes, no engine is started."""
    started = time.time()
    repairs = read_repairs(_uri(recipe, home, TABLE))
    if repairs.pending or _arrivals(recipe, home, repairs):
        with spark_session(recipe.resources, home, "repair_labels") as spark:
            summary = repair(recipe, home, spark)
    else:
        log.info("label_repairs: no outcome has arrived since repair %d", repairs.number)
        summary = _summary(repairs, repairs, {})
    return JobSummary(**{**asdict(summary), "seconds": round(time.time() - started, 2)})


def repair(recipe: Recipe, home: str, spark: SparkSession) -> JobSummary:
    """Repair in a given session: first what an earlier repair left, then what is new."""
    before = repairs = read_repairs(_uri(recipe, home, TABLE))
    hashes = {"config_hash": recipe.content_hash, "code_hash": code_hash()}
    written: dict[str, int | None] = {}
    if repairs.pending:
        log.info("label_repairs: repair %d was left undone; carrying it out", repairs.number)
        tables = LabelTables(recipe, home, spark)
        written |= tables.write(repairs, tables.rows(repairs.pending, repairs.until), hashes)
        repairs = _close(recipe, home, repairs, hashes)
    arrivals = _arrivals(recipe, home, repairs)
    if arrivals:
        tables = LabelTables(recipe, home, spark)
        late = tables.late(arrivals)
        days = [day for day in late if day in tables.labelled_days]
        until = {**repairs.until, **dict.fromkeys(days, tables.last_day)}
        decided = _decide(recipe, home, repairs, tables, late, tables.changed(days, until))
        if decided:
            version = tables.versions["outcomes"]
            repairs = append(repairs, "decide", version, decided, hashes)
            written |= tables.write(repairs, tables.rows(days, until), hashes)
        repairs = _close(recipe, home, repairs, hashes, tables.versions["outcomes"])
    return _summary(before, repairs, written)


def _decide(
    recipe: Recipe,
    home: str,
    repairs: Repairs,
    tables: LabelTables,
    late: dict[date, tuple[int, date]],
    changed: list[dict[str, Any]],
) -> list[DayRepair]:
    """What to do with each day on which something came late that no repair has counted yet."""
    known = learners(recipe, home) if changed else []
    found = []
    for day, (num_late, last_day) in sorted(late.items()):
        mine = [row for row in changed if row["day"] == day]
        if mine or last_day > repairs.until.get(day, date.min):
            found.append(tables.day_repair(day, num_late, mine, known))
    return found


def _close(
    recipe: Recipe,
    home: str,
    repairs: Repairs,
    hashes: dict[str, str],
    outcomes_version: int | None = None,
) -> Repairs:
    """Say that a repair has been carried out, once the registry says which models are stale."""
    if repairs.pending:
        mark_stale(recipe, home, stale_notes(repairs.rows))
    seen = repairs.seen if outcomes_version is None else outcomes_version
    return append(repairs, "done", seen, [], hashes)


def _arrivals(recipe: Recipe, home: str, repairs: Repairs) -> list[date]:
    """Arrival days of outcomes that no repair has looked at.

    Raises:
        ConfigError: There are no labels yet.
    """
    outcomes = delta.open_table(_uri(recipe, home, "outcomes"))
    if outcomes is None or delta.open_table(_uri(recipe, home, "labels")) is None:
        raise ConfigError(
            f"labels: there is nothing to repair in {home} for {recipe.contract.name!r}; retrain "
            "a day first (jobs.run_local), or set LAPIDARY_HOME to where that was done"
        )
    return delta.changed_days(outcomes, repairs.seen)


def _summary(before: Repairs, after: Repairs, written: dict[str, int | None]) -> JobSummary:
    new = [r for r in after.rows if r["number"] > before.number and r["action"] == "decide"]
    days = {
        row["day"].isoformat(): {
            "late_outcomes": row["num_late"],
            "impressions_changed": row["num_impressions"],
            "changes": row["changes"],
            "stale": row["stale"],
        }
        for row in new
    }
    for day, told in days.items():
        log.info(
            "%s: %d late outcomes changed the labels of %d impressions; %d models had learnt them",
            day,
            told["late_outcomes"],
            told["impressions_changed"],
            len(told["stale"]),
        )
    return JobSummary(
        job="repair_labels",
        inputs={"outcomes": after.seen},
        outputs={**written, TABLE: after.version},
        rows={"impressions_changed": sum(row["num_impressions"] for row in new)},
        details={"days": days},
    )


def _uri(recipe: Recipe, home: str, table: str) -> str:
    return f"{home}/tables/{recipe.contract.name}/{table}"


if __name__ == "__main__":
    recipe_main(recipe_parser(__doc__), lambda recipe, home, _: run(recipe, home))
