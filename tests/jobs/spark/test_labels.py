"""A label is null until its window has closed, and afterwards only a repair changes it."""

import math
from collections import Counter
from datetime import date, timedelta
from hashlib import sha256
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract import Task
from jobs.spark.labels import label_rows, late_outcomes, zipper_seconds
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


def labelled(spark, shown, acts, last_day, tasks=TASKS, repaired=None):
    """Label impressions of (id, shown at, known at) by outcomes of (of, type, at, arrival day)."""
    rows = [(i, at, known, day(at.day), day(known.day)) for i, at, known in shown]
    outcomes = [
        (str(n), of, what, None, at, at, arrived) for n, (of, what, at, arrived) in enumerate(acts)
    ]
    return label_rows(
        frame(spark, SHOWN, *rows),
        frame(spark, ACTS, *outcomes),
        tasks,
        last_day,
        "Europe/Berlin",
        repaired or {},
    )


def test_labels_have_the_columns_of_their_table(spark):
    rows = labelled(spark, [("a", utc(2, 12), utc(2, 12))], [], day(2))
    assert rows.dtypes == list(tables.labels(list(TASKS)).items())
    assert by(rows, "impression_id", "event_ts", "day", "mature_ts_click", "mature_ts_buy") == {
        "a": (utc(2, 12), day(2), utc(2, 12, 30), utc(3, 12))
    }
    assert by(rows, "impression_id", "is_mature_click", "is_mature_buy") == {"a": (True, False)}


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


def test_a_repaired_day_counts_what_arrived_until_its_repair_and_no_other_day_does(spark):
    shown = [(name, utc(n, 12), utc(n, 12)) for name, n in (("repaired", 2), ("other", 3))]
    acts = [("repaired", "buy", utc(2, 13), day(7)), ("other", "buy", utc(3, 13), day(7))]
    for until, label in ((6, 0), (7, 1)):
        rows = labelled(spark, shown, acts, day(9), repaired={day(2): day(until)})
        assert by(rows, "impression_id", "label_buy") == {"repaired": label, "other": 0}


def test_a_repair_does_not_reach_past_the_window_nor_mature_a_label(spark):
    shown = [("past", utc(2, 12), utc(2, 12)), ("open", utc(2, 12), utc(5, 12))]
    acts = [("past", "buy", utc(3, 12, 0, 0, 1), day(4)), ("open", "buy", utc(2, 13), day(4))]
    rows = labelled(spark, shown, acts, day(4), repaired={day(2): day(9)})
    assert by(rows, "impression_id", "label_buy") == {"past": 0, "open": None}


THROUGH = {"buy": TASKS["buy"].model_copy(update={"attribution": "click_through"})}


def test_click_through_counts_what_follows_a_click_on_the_impression(spark):
    cases = {
        "no click": ([("buy", 13, 2)], 0),
        "click first": ([("click", 12, 2), ("buy", 13, 2)], 1),
        "at once": ([("click", 13, 2), ("buy", 13, 2)], 1),
        "click afterwards": ([("click", 14, 2), ("buy", 13, 2)], 0),
        "click between two": ([("buy", 13, 2), ("click", 14, 2), ("basket", 15, 2)], 1),
        "click known too late": ([("click", 12, 4), ("buy", 13, 2)], 0),
        "click alone": ([("click", 13, 2)], 0),
    }
    shown = [(name, utc(2, 12), utc(2, 12)) for name in cases]
    acts = [
        (name, what, utc(2, hour), day(arrived))
        for name, (found, _) in cases.items()
        for what, hour, arrived in found
    ]
    rows = labelled(spark, shown, acts, day(9), THROUGH)
    expected = {name: label for name, (_, label) in cases.items()}
    assert by(rows, "impression_id", "label_buy") == expected


def test_late_outcomes_name_the_days_whose_labels_they_might_have_changed(spark):
    shown = [("a", utc(2, 12), utc(2, 12)), ("b", utc(4, 12), utc(4, 12))]
    acts = [
        ("a", "buy", utc(2, 13), day(3)),  # in time
        ("a", "basket", utc(3, 12), day(5)),
        ("a", "buy", utc(2, 13), day(6)),
        ("b", "click", utc(4, 12, 30), day(4)),  # in time
        ("b", "click", utc(4, 13), day(9)),  # past its window, and decides nothing of `buy`
        ("b", "yawn", utc(4, 12), day(9)),
    ]

    def late(tasks):
        rows = [(i, at, known, day(at.day), day(known.day)) for i, at, known in shown]
        outcomes = [
            (str(n), of, what, None, at, at, arrived)
            for n, (of, what, at, arrived) in enumerate(acts)
        ]
        frames = frame(spark, SHOWN, *rows), frame(spark, ACTS, *outcomes)
        return by(late_outcomes(*frames, tasks, "Europe/Berlin"), "day", "num_late", "last_day")

    assert late(TASKS) == {day(2): (2, day(6))}
    # Where a click has to come first, a late click decides too.
    assert late(THROUGH) == {day(2): (2, day(6)), day(4): (1, day(9))}


SHARES = [0.5, 0.3, 0.2]
ZIPPER = {
    "buy": Task(
        outcomes=["buy"],
        window=timedelta(days=7),
        zipper_windows=[timedelta(days=n) for n in (1, 3, 7)],
        zipper_shares=SHARES,
    )
}


def test_the_zipper_labels_each_impression_under_its_own_window(spark):
    names = [f"i{n}" for n in range(12)]
    shown = [(name, utc(2, 12), utc(2, 12)) for name in names]
    acts = [(name, "buy", utc(4, 12), day(4)) for name in names]
    rows = labelled(spark, shown, acts, day(6), ZIPPER)
    assert rows.dtypes == list(tables.labels(["buy"], ["buy"]).items())
    found = by(
        rows, "impression_id", "zipper_seconds_buy", "zipper_label_buy", "zipper_mature_ts_buy"
    )
    expected = {86_400: (0, utc(3, 12)), 259_200: (1, utc(5, 12)), 604_800: (None, utc(9, 12))}
    assert {seconds: (label, ts) for seconds, label, ts in found.values()} == expected
    assert by(rows, "impression_id", "label_buy") == dict.fromkeys(names)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 3))
def test_the_zipper_assigns_every_impression_one_window_in_the_declared_shares(spark, seed, n):
    shares = [share / sum(SHARES[:n]) for share in SHARES[:n]]
    windows = ZIPPER["buy"].zipper_windows[:n]
    task = Task(
        outcomes=["buy"],
        window=timedelta(days=1),
        zipper_windows=windows,
        zipper_shares=shares,
        zipper_seed=seed,
    )
    ids = spark.range(4000).selectExpr(f"concat('{seed}-', id) AS impression_id")
    found = by(ids.withColumn("s", zipper_seconds(task)), "impression_id", "s")
    ends = list(accumulate(shares))
    for name, seconds in found.items():
        drawn = int(sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 2**52
        index = next((i for i, end in enumerate(ends[:-1]) if drawn < end), n - 1)
        assert seconds == windows[index].total_seconds()
    counted = Counter(found.values())
    for window, share in zip(windows, shares, strict=True):
        spread = math.sqrt(4000 * share * (1 - share))
        assert abs(counted[int(window.total_seconds())] - 4000 * share) <= 4 * spread
