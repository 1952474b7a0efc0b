"""A repair that touches one of 30 days against overwriting that day, in one warm session.

Two homes hold the same log, labels and examples. In every round the same late purchases of one day
arrive in both; one home is repaired (`jobs.repair_labels`: find the days, say what changes, write
the ledger, replace), in the other that day's labels and examples are overwritten by whoever knows
which day it is. Afterwards both hold equal rows and every other day its own files, or nothing is
reported. Prints one line of JSON.

    python -m tests.bench.bench_repair_labels --impressions-per-day 50000 --rounds 12
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from jobs import build_labels, delta
from jobs.config import Recipe, Resources, day_start, days_between
from jobs.repair_labels import repair
from jobs.repairs import TABLE, Repairs
from jobs.spark.examples import example_columns
from jobs.spark.repair import LabelTables
from jobs.spark.session import spark_session
from tests.bench.harness import Timing, compared, report, samples, timed
from tests.jobs.samples import COMMIT, contract, recipe, run_config

_DAYS = days_between(date(2024, 4, 1), date(2024, 4, 30))
_TOUCHED, _LAST = date(2024, 4, 24), _DAYS[-1]
_LATE_ROWS = 200
_GOAL = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--impressions-per-day", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    settings = recipe(contract(first_day=_DAYS[0]))
    with tempfile.TemporaryDirectory() as folder:
        homes = {arm: f"{folder}/{arm}" for arm in ("repair", "overwrite")}
        resources = Resources(spark_driver_memory="2g")
        with spark_session(resources, folder, "bench_repair_labels") as spark:
            for home in homes.values():
                _fill(home, settings, options.impressions_per_day, spark)
            found = [_round(n, homes, settings, spark) for n in range(options.rounds + 1)][1:]
    timings = {arm: [one[arm] for one in found] for arm in homes}
    report(
        "repair_labels",
        impressions_per_day=options.impressions_per_day,
        days=len(_DAYS),
        goal=_GOAL,
        **compared(timings, "repair", "overwrite"),
        samples=samples(timings),
    )


def _round(
    number: int, homes: dict[str, str], settings: Recipe, spark: SparkSession
) -> dict[str, Timing]:
    """Times of the repair and of the overwriting, after the same outcomes have arrived."""
    before = {arm: _files(home) for arm, home in homes.items()}
    for home in homes.values():
        _arrive_late(home, number)
    timings = {}

    def repaired() -> None:
        summary = repair(settings, homes["repair"], spark)
        assert list(summary.details["days"]) == [_TOUCHED.isoformat()]

    def overwritten() -> None:
        _overwrite(settings, homes["overwrite"], spark)

    for arm in ("repair", "overwrite") if number % 2 else ("overwrite", "repair"):
        timings[arm] = timed(repaired if arm == "repair" else overwritten)
    rows = {}
    for arm, home in homes.items():
        after = _files(home)
        assert [key for key in after if after[key] != before[arm][key]] == [
            (table, _TOUCHED.isoformat()) for table in ("labels", "examples")
        ]
        rows[arm] = [
            delta.read_days(_uri(home, table), [_TOUCHED]).sort_by("impression_id")
            for table in ("labels", "examples")
        ]
    assert rows["repair"] == rows["overwrite"]
    return timings


def _overwrite(settings: Recipe, home: str, spark: SparkSession) -> None:
    """Replace the day's labels and its examples' label columns, counting all that is known."""
    tables = LabelTables(settings, home, spark)
    told = {"number": 1, "action": "decide", "day": _TOUCHED, "until": _LAST}
    known = Repairs(_uri(home, TABLE), None, ({**told, "outcomes_version": None},))
    rows = tables.rows([_TOUCHED], known.until)
    tables.write(known, rows, {"config_hash": "c", "code_hash": "k"})


def _fill(home: str, settings: Recipe, num: int, spark: SparkSession) -> None:
    """Days of impressions with an outcome for every fifth, their labels and wide examples."""
    draw = np.random.default_rng(1)
    for day in _DAYS:
        start = _micros(day)
        at = start + np.sort(draw.integers(0, 86_400_000_000 - 1_000_000, num))
        ids = [f"{day.day}-{n}" for n in range(num)]
        shown = {
            "impression_id": ids,
            "surface": draw.choice(["feed", "search"], num),
            "event_ts": _moments(at),
            "known_ts": _moments(at),
            "event_day": pa.array([day] * num),
        }
        _put(home, "impressions", day, pa.table(shown))
        _put(home, "events", day, pa.table({"event_id": ["x"]}))
        acted = np.arange(0, num, 5)
        what = draw.choice(["click", "buy"], len(acted))
        _put(home, "outcomes", day, _outcomes([ids[n] for n in acted], what, at[acted]))
    build_labels.build(run_config(home, settings, _LAST), spark)
    for day in _DAYS:
        labels = delta.read_days(_uri(home, "labels"), [day]).sort_by("impression_id")
        rows: dict[str, Any] = {}
        for name, kind in example_columns(settings.contract).items():
            if name in labels.column_names:
                rows[name] = labels[name]
            elif kind == "string":
                rows[name] = draw.integers(0, 1000, num).astype(str)
            elif kind in ("bigint", "int"):
                whole = draw.poisson(3.0, num)
                rows[name] = pa.array(whole, pa.int64() if kind == "bigint" else pa.int32())
            elif kind == "double":
                rows[name] = draw.normal(size=num)
        del rows["day"]
        _put(home, "examples", day, pa.table(rows))


def _arrive_late(home: str, number: int) -> None:
    """Purchases of the touched day, in time for its window, that arrive on the last day."""
    held = delta.read_days(_uri(home, "outcomes"), [_LAST]).drop_columns("day")
    first = number * _LATE_ROWS * 5 + 1
    ids = [f"{_TOUCHED.day}-{n}" for n in range(first, first + _LATE_ROWS * 5, 5)]
    at = np.full(len(ids), _micros(_TOUCHED) + 1)
    late = _outcomes(ids, np.array(["buy"] * len(ids)), at)
    _put(home, "outcomes", _LAST, pa.concat_tables([held, late.cast(held.schema)]))


def _outcomes(ids: list[str], what: np.ndarray, at: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "outcome_id": [f"{name}-{kind}" for name, kind in zip(ids, what, strict=True)],
            "impression_id": ids,
            "outcome_type": what.tolist(),
            "value": np.zeros(len(ids)),
            "event_ts": _moments(at),
            "known_ts": _moments(at),
        }
    )


def _put(home: str, table: str, day: date, rows: pa.Table) -> None:
    delta.write_arrow_day(_uri(home, table), rows, day, [rows.column_names[0]], COMMIT)


def _files(home: str) -> dict[tuple[str, str | None], set[str]]:
    return {
        (table, day): paths
        for table in ("labels", "examples")
        for day, paths in delta.paths_by_day(delta.open_table(_uri(home, table))).items()
    }


def _uri(home: str, table: str) -> str:
    return str(Path(home) / "tables" / "shop" / table)


def _micros(day: date) -> int:
    start: datetime = day_start(day, "Europe/Berlin")
    return round(start.timestamp()) * 1_000_000


def _moments(micros: np.ndarray) -> pa.Array:
    return pa.array(micros, pa.timestamp("us", "UTC"))


if __name__ == "__main__":
    main()
