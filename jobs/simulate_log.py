"""Write a simulated ads log, day by day, with the true probabilities beside it.

Reads `world.json` in the log's folder, if a call before left one. Writes, per day, below `--out`:
`users`, `ads`, `events` (organic), `outcomes`, `truth` and `impressions`, each as
`<table>/day=YYYY-MM-DD/part-0.parquet`, and last `impressions/day=.../_SUCCESS`. Guarantees: the
bytes of a day depend on the world and the day alone, never on which days a call writes with it; a
file is there whole or not at all; nothing but `truth` holds a true probability.

The world is set by the first call into a folder (its first day is the world's, unless
`--world-start` says otherwise) and kept in `world.json`: later calls continue it, and refuse to
change it. A preset is a world that is frozen by a digest: where its rows would be others, nothing
is written.

    python -m jobs.simulate_log --first-day 2026-01-01 --days 30
    python -m jobs.simulate_log --preset world-2 --out var/logs/world-2
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

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import simulation
from jobs.command import JobSummary, exit_with, log, write_json
from jobs.config import lapidary_home, parse_day
from jobs.errors import ConfigError
from jobs.settings import checked
from jobs.simulation import PRESETS, Day, World
from jobs.simulation.digests import digest
from jobs.simulation.tables import tables

WORLD = "world.json"
MARKER = "_SUCCESS"
_MAX_DAYS = 10_000


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


def _folder(world: World, day: Day) -> str:
    return f"day={world.day(day.number).isoformat()}"


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot, so that no reader of the folder takes it for a part.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # Hardly any two numbers are alike; a dictionary of them would be made in vain.
    repeated = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    pq.write_table(table, partial, compression="zstd", use_dictionary=repeated)  # pyright: ignore[reportArgumentType]
    partial.replace(path)


def _keep_world(world: World, out: Path) -> None:
    """Write down the folder's world, or refuse to mix two worlds in one folder."""
    held = _held_world(out)
    values = world.model_dump(mode="json")
    if held is None:
        write_json(out / WORLD, values)
        return
    for name, value in values.items():
        if held.get(name) != value:
            raise ConfigError(
                f"{name}: a folder holds one world; found {value!r}, but {out / WORLD} says "
                f"{held.get(name)!r}; leave the option out, or choose another --out"
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
    parser.add_argument("--preset", help=f"a frozen world: {', '.join(PRESETS)}")
    parser.add_argument("--first-day", help="YYYY-MM-DD; so that yesterday (UTC) is the last")
    parser.add_argument("--days", type=int, help="how many days to write; 1, or all of the preset")
    parser.add_argument("--world-start", help="the world's day 0, YYYY-MM-DD; the first day")
    for option, (name, unit) in _OPTIONS.items():
        default = World.model_fields[name].default
        parser.add_argument(option, dest=name, type=int, help=f"{unit}; {default}")
    options = parser.parse_args()
    run_options = _run_preset if options.preset else _run_options
    exit_with(lambda: asdict(run_options(options)))


_OPTIONS = {
    "--users": ("num_users", "users"),
    "--ads": ("num_ads", "ads that can be shown on a day"),
    "--impressions-per-day": ("num_impressions", "ads shown per day"),
    "--seed": ("seed", "seed of every draw"),
}


def _run_options(options: argparse.Namespace) -> JobSummary:
    out = options.out or lapidary_home() / "logs" / "simulated"
    num_days = 1 if options.days is None else options.days
    if options.first_day:
        first_day = parse_day(options.first_day, "--first-day")
    else:
        days = min(max(num_days, 1), _MAX_DAYS)  # `run` refuses the rest
        first_day = datetime.now(UTC).date() - timedelta(days=days)
    given = {name: getattr(options, name) for name, _ in _OPTIONS.values()}
    if options.world_start:
        given["world_start"] = parse_day(options.world_start, "--world-start").isoformat()
    values = _held_world(out) or {"world_start": first_day.isoformat()}
    values |= {name: value for name, value in given.items() if value is not None}
    return run(checked(World, values, "options"), out, first_day, num_days)


def _run_preset(options: argparse.Namespace) -> JobSummary:
    name = options.preset
    if name not in PRESETS:
        raise ConfigError(f"--preset: unknown preset {name!r}; there are {', '.join(PRESETS)}")
    fixed = {option: getattr(options, field) for option, (field, _) in _OPTIONS.items()}
    for option, value in {**fixed, "--world-start": options.world_start}.items():
        if value is not None:
            raise ConfigError(
                f"{option}: a preset is frozen; found {value!r}; leave one of both out"
            )
    preset = PRESETS[name]
    found = digest(preset.world)
    if found != preset.digest:
        raise ConfigError(
            f"--preset: {name} has rows of digest {preset.digest}; found {found}; install the "
            "pinned numpy, or, where the simulation was changed on purpose, name a new preset"
        )
    start = preset.world.world_start
    first_day = parse_day(options.first_day, "--first-day") if options.first_day else start
    left = preset.num_days - (first_day - start).days
    out = options.out or lapidary_home() / "logs" / name
    return run(preset.world, out, first_day, left if options.days is None else options.days)


if __name__ == "__main__":
    _main()
