"""A label is null until its window has closed, and never changes afterwards."""

from datetime import date, timedelta

import pytest

from jobs.contract import Task
from jobs.spark.labels import label_rows
from tests.jobs.spark.frames import by, frame, utc
from validation import tables

TASKS = {
    "click": Task(outcomes=["click"], window=timedelta(minutes=30)),
    "buy": Task(outcomes=["buy", "basket"], window=timedelta(days=1)),
}
SHOWN = "impression_id string, event_ts timestamp, known_ts timestamp, event_day date, day date"
ACTS = (
    "outcome_id string, impression_id string, outcome_type string, value double, "
    "event_ts timestamp, known_ts timestamp, day date"
)


def day(number):
    return date(2024, 3, number)


def labelled(spark, shown, acts, last_day, zone="Europe/Berlin"):
    """Label impressions of (id, shown at, known at) by outcomes of (of, type, at, arrival day)."""
    rows = [(i, at, known, day(at.day), day(known.day)) for i, at, known in shown]
    outcomes = [
        (str(n), of, what, None, at, at, arrived) for n, (of, what, at, arrived) in enumerate(acts)
    ]
    return label_rows(
        frame(spark, SHOWN, *rows), frame(spark, ACTS, *outcomes), TASKS, last_day, zone
    )


def test_labels_have_the_columns_of_their_table(spark):
    rows = labelled(spark, [("a", utc(2, 12), utc(2, 12))], [], day(2))
    assert rows.dtypes == list(tables.labels(list(TASKS)).items())
    assert by(rows, "impression_id", "event_ts", "day", "mature_ts_click", "mature_ts_buy") == {
        "a": (utc(2, 12), day(2), utc(2, 12, 30), utc(3, 12))
    }


def test_outcomes_count_within_their_window_whatever_their_number(spark):
    shown = [(name, utc(2, 12), utc(2, 12)) for name in ("on", "past", "twice", "none", "other")]
    acts = [
        ("on", "click", utc(2, 12, 30), day(2)),
        ("past", "click", utc(2, 12, 30, 0, 1), day(2)),
        ("twice", "buy", utc(2, 13), day(2)),
        ("twice", "basket", utc(2, 14), day(2)),
        ("other", "yawn", utc(2, 12), day(2)),
        ("lost", "click", utc(2, 12), day(2)),
    ]
    rows = labelled(spark, shown, acts, day(3))
    assert by(rows, "impression_id", "label_click", "label_buy") == {
        "on": (1, 0),
        "past": (0, 0),
        "twice": (0, 1),
        "none": (0, 0),
        "other": (0, 0),
    }


@pytest.mark.parametrize("last", [2, 3])
def test_a_label_is_null_until_the_day_on_which_its_window_closed_is_over(spark, last):
    # 23:00 UTC is midnight in Berlin.
    shown = [
        ("closes today", utc(2, 22, 29, 59), utc(2, 22, 29, 59)),
        ("closes tomorrow", utc(2, 22, 30), utc(2, 22, 30)),
        ("arrives tomorrow", utc(2, 12), utc(3, 12)),
    ]
    acts = [(name, "click", utc(2, 22, 31), day(2)) for name, *_ in shown]
    rows = labelled(spark, shown, acts, day(last))
    assert by(rows, "impression_id", "label_click") == {
        "closes today": 1,
        "closes tomorrow": None if last == 2 else 1,
        "arrives tomorrow": None if last == 2 else 0,
    }


def test_an_outcome_that_arrives_after_the_label_matured_changes_nothing(spark):
    shown = [(name, utc(2, 12), utc(2, 12)) for name in ("in time", "late")]
    acts = [
        ("in time", "buy", utc(2, 13), day(3)),
        ("late", "buy", utc(2, 13), day(4)),
    ]
    for last in (3, 4, 9):
        rows = labelled(spark, shown, acts, day(last))
        assert by(rows, "impression_id", "label_buy") == {"in time": 1, "late": 0}
