"""One more day against all days anew: `build_tables` on a simulated log, in one warm session.

Simulates a log and ingests its first days. Each round then makes every table of all days anew, as
code of its own, and lets one more day arrive, whose ingest is not timed, and be built by that
code: what the daily run does to the tables. The rebuild with which the next round begins must
leave every day as the daily runs have made it. Prints one line of JSON with the ratio and the
seconds of each step.

    python -m tests.bench.bench_increment --days 30 --impressions-per-day 20000 --rounds 3
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
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
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    world = World(
        world_start=_FIRST_DAY,
        num_users=options.users,
        num_impressions=options.impressions_per_day,
    )
    with tempfile.TemporaryDirectory() as home:
        log = Path(home) / "log"
        simulate_log.run(world, log, _FIRST_DAY, options.days + options.rounds)
        _compare(Path(home), world, options.days, options.rounds)


def _compare(home: Path, world: World, num_days: int, num_rounds: int) -> None:
    timings: dict[str, list[harness.Timing]] = {"daily": [], "whole": []}
    steps: dict[str, dict[str, float]] = {}
    run = _runs(home, num_days)
    with spark_session(Resources(spark_driver_memory="3g"), str(home), "bench_increment") as spark:

        def timed(arm: str, config: RunConfig) -> None:
            timings[arm].append(harness.timed(lambda: build_tables.build(config, spark)))
            steps[arm] = {summary.job: summary.seconds for summary in read_summaries(config)}

        def rebuilt(code: int) -> RunConfig:
            return run(code, code + num_days - 1, code)

        ingest_log.build(rebuilt(0), spark)
        # Once before anything is timed, so that the session is warm.
        build_tables.build(run(0, num_days - 1, -1), spark)
        for n in range(num_rounds):
            before = _digests(rebuilt(n))
            timed("whole", rebuilt(n))
            harness.require_equal({"daily": before, "whole": _digests(rebuilt(n))})
            arrived = run(num_days + n, num_days + n, n)
            ingest_log.build(arrived, spark)
            timed("daily", arrived)
        before = _digests(rebuilt(num_rounds))
        build_tables.build(rebuilt(num_rounds), spark)
        harness.require_equal({"daily": before, "whole": _digests(rebuilt(num_rounds))})
    harness.report(
        "increment",
        goal=0.1,
        num_days=num_days,
        world=world.model_dump(mode="json"),
        **harness.compared(timings, "daily", "whole"),
        arms=harness.samples(timings),
        steps=steps,
    )


def _runs(home: Path, num_days: int) -> Callable[[int, int, int], RunConfig]:
    """What gives the run that builds a day of arrival to a day, numbered, by code of a number."""
    changes = {
        "log_uri": str(home / "log"),
        "contract": {"first_day": _FIRST_DAY.isoformat()},
        "windows": {"bootstrap_days": num_days},
    }
    settings = with_overrides(named_recipe("simulated"), changes)

    def run(first: int, last: int, code: int) -> RunConfig:
        start, end = (_FIRST_DAY + timedelta(days=day) for day in (first, last))
        config = run_config(home, settings, end, first=start, run_id=f"{start}-{end}-{code}")
        context = config.run.model_copy(update={"code_hash": f"code {code}"})
        return config.model_copy(update={"run": context})

    return run


def _digests(config: RunConfig) -> str:
    """Of every table and day, as the commits that hold them say."""
    held = {
        name: {
            str(day): commit.digest
            for day, commit in delta.live_commits(delta.open_table(config.table(name))).items()
        }
        for name in _TABLES
    }
    return str({name: sorted(days.items()) for name, days in held.items()})


if __name__ == "__main__":
    main()
