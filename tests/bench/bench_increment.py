"""One more day against all days anew: `build_tables` on a simulated log, in one warm session.

Simulates and ingests the log, builds every table of all days, then times in turn a rebuild of all
days and the run of the last day alone, as the day after the family has learnt the others. Both
leave the tables as they were, which is looked at before anything is timed. Every touched day is
made anew, also those that would only get their new labels: the daily run is an upper bound. Prints
one line of JSON with the ratio and the seconds of each step.

    python -m tests.bench.bench_increment --days 30 --impressions-per-day 20000 --rounds 5
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date, timedelta
from itertools import count
from pathlib import Path

from jobs import build_tables, delta, ingest_log, simulate_log
from jobs.command import read_summaries
from jobs.config import Resources, RunConfig, with_overrides
from jobs.recipes import named_recipe
from jobs.simulation import World
from jobs.spark.session import spark_session
from tests.bench import harness
from tests.jobs.samples import run_config

_FIRST_DAY = date(2026, 1, 1)
_TABLES = ("labels", "entity_features", "timelines", "examples")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--impressions-per-day", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    world = World(
        world_start=_FIRST_DAY,
        num_users=options.users,
        num_impressions=options.impressions_per_day,
    )
    with tempfile.TemporaryDirectory() as home:
        simulate_log.run(world, Path(home) / "log", _FIRST_DAY, options.days)
        _compare(Path(home), world, options.days, options.rounds)


def _compare(home: Path, world: World, num_days: int, num_rounds: int) -> None:
    last = _FIRST_DAY + timedelta(days=num_days - 1)
    changes = {
        "log_uri": str(home / "log"),
        "contract": {"first_day": _FIRST_DAY.isoformat()},
        "windows": {"bootstrap_days": num_days},
    }
    settings = with_overrides(named_recipe("simulated"), changes)
    whole = run_config(home, settings, last, run_id="whole")
    daily = run_config(home, settings, last, first=last, run_id="daily")
    with spark_session(Resources(spark_driver_memory="3g"), str(home), "bench_increment") as spark:
        ingest_log.build(whole, spark)
        builds = count()

        def build(config: RunConfig) -> None:
            # Code of its own each time: what the same code has made of the same files is left.
            context = config.run.model_copy(update={"code_hash": f"build {next(builds)}"})
            build_tables.build(config.model_copy(update={"run": context}), spark)

        arms = {"daily": lambda: build(daily), "whole": lambda: build(whole)}
        arms["whole"]()
        before = _digests(whole)
        arms["daily"]()
        harness.require_equal({"whole": before, "daily": _digests(whole)})
        timings = harness.rounds(arms, num_rounds)
    harness.report(
        "increment",
        goal=0.1,
        num_days=num_days,
        world=world.model_dump(mode="json"),
        **harness.compared(timings, "daily", "whole"),
        arms=harness.samples(timings),
        steps={config.run.run_id: _steps(config) for config in (whole, daily)},
    )


def _digests(config: RunConfig) -> str:
    held = {
        name: {
            str(day): commit.digest
            for day, commit in delta.live_commits(delta.open_table(config.table(name))).items()
        }
        for name in _TABLES
    }
    return str({name: sorted(days.items()) for name, days in held.items()})


def _steps(config: RunConfig) -> dict[str, float]:
    """Seconds of each step's last run."""
    return {summary.job: summary.seconds for summary in read_summaries(config)}


if __name__ == "__main__":
    main()
