"""Write a simulated ads log, day by day, with the true probabilities beside it.

Reads `world.json` in the log's folder, if a call before left one. Writes, per day, below `--out`:
`users`, `ads`, `events` (organic), `outcomes`, `truth` and `impressions`, each as
`<table>/day=YYYY-MM-DD/part-0.parquet`, and last `impressions/day=.../_SUCCESS`. Guarantees: the
bytes of a day depend on the world and the day alone, never on which days a call writes with it; a
file is there whole or not at all; nothing but `truth` holds a true probability.

The world is set by the first call into a folder (its first day is the world's, unless
`--world-start` says otherwise) and kept in `world.json`: later calls continue it, and refuse to
change it.

    python -m jobs.simulate_log --first-day 2026-01-01 --days 30
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import simulation
from jobs.command import JobSummary, exit_with, log, write_json
from jobs.config import lapidary_home, parse_day
from jobs.errors import ConfigError
from jobs.settings import checked
from jobs.simulation import Columns, Day, World

WORLD = "world.json"
TRUTH = "truth"
"""The side table with true probabilities; no contract names it."""
MARKER = "_SUCCESS"
_MAX_DAYS = 10_000
_OUTCOME_PREFIX = ("k", "v")
"""First letters of the ids of clicks and conversions: ids of all feeds share one table."""


def run(world: World, out: Path, first_day: date, num_days: int) -> JobSummary:
    """Simulate and write days of a world.

    Args:
        world: The world.
        out: The log's folder.
        first_day: First day to write, not before the world's.
        num_days: How many days to write.

    Returns:
        Rows by table; details tell how many conversions of these days never arrive.

    Raises:
        ConfigError: The days lie outside the world, or the folder holds another world.
    """
    started = time.time()
    first = (first_day - world.world_start).days
    if first < 0:
        raise ConfigError(
            f"--first-day: not before the world's start; found {first_day}, the world starts on "
            f"{world.world_start}; choose a later day, or an earlier --world-start in a new --out"
        )
    if not 1 <= num_days <= _MAX_DAYS:
        raise ConfigError(f"--days: from 1 to {_MAX_DAYS}; found {num_days}; write fewer at a time")
    _keep_world(world, out)
    rows, dropped = Counter[str](), 0
    for day in simulation.days(world, first, num_days):
        for name, table in tables(day).items():
            _write(table, out / name / _folder(world, day) / "part-0.parquet")
            rows[name] += table.num_rows
        (out / "impressions" / _folder(world, day) / MARKER).touch()
        dropped += day.num_dropped
        log.info("%s: %s", out.name, _folder(world, day))
    last = world.day(first + num_days - 1)
    return JobSummary(
        job="simulate_log",
        rows=dict(rows),
        details={
            "out": str(out),
            "world": world.model_dump(mode="json"),
            "first_day": first_day.isoformat(),
            "last_day": last.isoformat(),
            "conversions_dropped": dropped,
        },
        started=started,
        seconds=round(time.time() - started, 2),
    )


def tables(day: Day) -> dict[str, pa.Table]:
    """A day's tables by name, in the order in which they are written."""
    people, ads, shown = day.people, day.ads, day.impressions
    organic, outcomes, users = day.organic, day.outcomes, people.users
    kind = outcomes["outcome_type"]
    return {
        "users": pa.table(
            {
                "user_id": _ids("u", users["number"]),
                "country": _names(simulation.COUNTRIES, users["country"]),
                "age_group": _names(simulation.AGE_GROUPS, users["age_group"]),
                "device": _names(simulation.DEVICES, users["device"]),
                "created_ms": users["created_ms"],
            }
        ),
        "ads": pa.table(
            {
                "ad_id": _ids("a", ads.number),
                "campaign_id": _ids("c", ads.campaign),
                "category": _ids("t", people.campaign_category[ads.campaign]),
                "created_ms": ads.created_ms,
            }
        ),
        "events": pa.table(
            {
                "event_id": _ids("o", organic["number"]),
                "user_id": _ids("u", organic["user"]),
                "item_id": _ids("n", organic["item"]),
                "surface": _names(simulation.SURFACES, organic["surface"]),
                "event_type": _names(simulation.EVENT_TYPES, organic["event_type"]),
                "event_ms": organic["event_ms"],
            }
        ),
        "outcomes": pa.table(
            {
                "outcome_id": _ids(np.array(_OUTCOME_PREFIX)[kind], outcomes["number"]),
                "impression_id": _ids("i", outcomes["number"]),
                "outcome_type": _names(simulation.OUTCOME_TYPES, kind),
                "event_ms": outcomes["event_ms"],
                "value": pa.array(outcomes["value"], from_pandas=True),
            }
        ),
        TRUTH: _truth(day.truth),
        "impressions": pa.table(
            {
                "impression_id": _ids("i", shown["number"]),
                "user_id": _ids("u", shown["user"]),
                "ad_id": _ids("a", ads.number[shown["slot"]]),
                "campaign_id": _ids("c", ads.campaign[shown["slot"]]),
                "surface": _names(simulation.SURFACES, shown["surface"]),
                "event_ms": shown["event_ms"],
                "position": pa.array(shown["position"], pa.int32()),
                "device": _names(simulation.DEVICES, shown["device"]),
                "bid": shown["bid"],
                "propensity": shown["propensity"],
            }
        ),
    }


def _truth(truth: Columns) -> pa.Table:
    figures = {name: values for name, values in truth.items() if name != "number"}
    return pa.table({"impression_id": _ids("i", truth["number"]), **figures})


def _ids(prefix: str | np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.strings.add(prefix, numbers.astype(str))


def _names(names: tuple[str, ...], indexes: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(indexes))


def _folder(world: World, day: Day) -> str:
    return f"day={world.day(day.number).isoformat()}"


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot, so that no reader of the folder takes it for a part.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def _keep_world(world: World, out: Path) -> None:
    """Write down the folder's world, or refuse to mix two worlds in one folder."""
    held = _held_world(out)
    values = world.model_dump(mode="json")
    if held is None:
        write_json(out / WORLD, values)
        return
    for name, value in held.items():
        if values.get(name) != value:
            raise ConfigError(
                f"{name}: a folder holds one world; found {values.get(name)!r}, but {out / WORLD} "
                f"says {value!r}; leave the option out, or choose another --out"
            )


def _held_world(out: Path) -> dict[str, Any] | None:
    path = out / WORLD
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON: {error}; delete it or choose another --out") from None


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the log's folder; <LAPIDARY_HOME>/logs/simulated")
    parser.add_argument("--first-day", help="YYYY-MM-DD; so that yesterday (UTC) is the last")
    parser.add_argument("--days", type=int, default=1, help="how many days to write; 1")
    parser.add_argument("--world-start", help="the world's day 0, YYYY-MM-DD; the first day")
    for option, (name, unit) in _OPTIONS.items():
        default = World.model_fields[name].default
        parser.add_argument(option, dest=name, type=int, help=f"{unit}; {default}")
    options = parser.parse_args()
    exit_with(lambda: asdict(_run_options(options)))


_OPTIONS = {
    "--users": ("num_users", "users"),
    "--ads": ("num_ads", "ads that can be shown on a day"),
    "--impressions-per-day": ("num_impressions", "ads shown per day"),
    "--seed": ("seed", "seed of every draw"),
}


def _run_options(options: argparse.Namespace) -> JobSummary:
    out = options.out or lapidary_home() / "logs" / "simulated"
    if options.first_day:
        first_day = parse_day(options.first_day, "--first-day")
    else:
        days = min(max(options.days, 1), _MAX_DAYS)  # `run` refuses the rest
        first_day = datetime.now(UTC).date() - timedelta(days=days)
    given = {name: getattr(options, name) for name, _ in _OPTIONS.values()}
    if options.world_start:
        given["world_start"] = parse_day(options.world_start, "--world-start").isoformat()
    values = _held_world(out) or {"world_start": first_day.isoformat()}
    values |= {name: value for name, value in given.items() if value is not None}
    return run(checked(World, values, "options"), out, first_day, options.days)


if __name__ == "__main__":
    _main()
