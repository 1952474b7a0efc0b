"""Days that would be made of the same again are told from the rows that arrived since."""

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import delta
from jobs.config import Windows
from jobs.settled import settled_days
from tests.jobs.samples import COMMIT, contract, recipe, run_config

INPUTS = ("events", "impressions")


def march(day, hour=12):
    return datetime(2024, 3, day, hour, tzinfo=UTC)


def arrive(config, arrival, shown=(), known=()):
    """A day of arrivals: impressions shown on some days, events known at some moments."""
    rows = {
        "impressions": {"event_day": pa.array([date(2024, 3, d) for d in shown], pa.date32())},
        "events": {"known_ts": pa.array(known, pa.timestamp("us", "UTC"))},
    }
    for name, columns in rows.items():
        table, day = pa.table(columns), date(2024, 3, arrival)
        delta.write_arrow_day(config.table(name), table, day, list(columns), COMMIT)


def build(config, day, **changes):
    """The day's timelines, as made of what is there now."""
    run = config.run
    commit = {
        "run_id": "run",
        "config_hash": run.config_hash,
        "code_hash": run.code_hash,
        "inputs": {name: delta.latest_version(config.table(name)) for name in INPUTS},
        **changes,
    }
    uri = config.table("timelines")
    # Other rows each time: a day of equal rows is left with the commit that it has.
    rows = pa.table({"x": [delta.latest_version(uri) or 0]})
    delta.write_arrow_day(uri, rows, date(2024, 3, day), ["x"], commit)


def settled(config):
    return sorted(day.day for day in settled_days(config, "timelines", INPUTS))


@pytest.fixture
def config(tmp_path):
    """A run of the 8th whose touched days are the 6th to the 8th; the 5th to the 7th are there."""
    settings = recipe(contract(tasks__buy__window="1d"), windows=Windows(max_late_days=2))
    config = run_config(tmp_path, settings, date(2024, 3, 8), first=date(2024, 3, 8))
    for day in (5, 6, 7):
        arrive(config, day, [day], [march(day)])
        build(config, day)
    return config


def test_days_are_settled_until_something_arrives_that_counts_for_them(config):
    assert settled(config) == [6, 7]
    arrive(config, 8, [8], [march(8)])
    assert settled(config) == [6, 7]
    build(config, 8)
    assert settled(config) == [6, 7, 8]


@pytest.mark.parametrize(
    ("shown", "known", "left"),
    [
        ([8, 7], [march(8)], [6]),
        ([8], [march(8), march(7)], [6]),
        ([6, 8], [march(8)], []),
        # The 8th begins at 23:00 UTC where the log is.
        ([8], [march(7, hour=23)], [6, 7]),
        ([8], [march(7, hour=22)], [6]),
    ],
)
def test_a_late_row_unsettles_its_day_and_the_days_after_it(config, shown, known, left):
    arrive(config, 8, shown, known)
    assert settled(config) == left


def test_a_row_that_is_gone_unsettles_the_days_that_it_counted_for(config):
    arrive(config, 8, [8, 7], [march(8)])
    for day in (6, 7, 8):
        build(config, day)
    arrive(config, 8, [8], [march(8)])
    assert settled(config) == [6]


@pytest.mark.parametrize(
    "changes", [{"code_hash": "older"}, {"config_hash": "other"}, {"inputs": {"events": 2}}]
)
def test_a_day_of_other_code_or_of_unknown_inputs_is_not_settled(config, changes):
    build(config, 6, **changes)
    assert settled(config) == [7]


def test_days_whose_former_inputs_cannot_be_read_any_more_are_not_settled(config):
    arrive(config, 8, [8], [march(8)])
    for day in (6, 7, 8):
        build(config, day)
    former = delta.day_files(delta.open_table(config.table("events")), [date(2024, 3, 8)])
    arrive(config, 8, [8], [march(8), march(8, hour=13)])
    assert settled(config) == [6, 7]
    for path in former:
        Path(path).unlink()
    assert settled(config) == []
