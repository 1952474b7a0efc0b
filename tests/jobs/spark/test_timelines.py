"""What was known at any moment of a day is a prefix of the day's timeline."""

from datetime import date, timedelta

import pyarrow as pa
import pytest

from jobs.spark.timelines import timeline_rows, timelines, whole_users
from tests.jobs.spark.frames import by, frame, utc
from validation import tables

TYPES = ["event_type", "surface", "item_id", "value", "event_ts", "known_ts", "time_is_synthetic"]
DAY = date(2024, 3, 5)


def stream(*rows):
    """Sorted rows of (user, day offset, item); no item marks the request of a timeline."""
    start = utc(1)
    columns = {
        "user_id": pa.array([user for user, _, _ in rows]),
        "day": pa.array([DAY + timedelta(days=day) for _, day, _ in rows], pa.date32()),
        "is_request": pa.array([item is None for _, _, item in rows], pa.bool_()),
        "item_id": pa.array([item for _, _, item in rows], pa.string()),
        "value": pa.array([None] * len(rows), pa.float64()),
        "time_is_synthetic": pa.array([False] * len(rows), pa.bool_()),
    }
    for name in ("event_type", "surface"):
        columns[name] = pa.array(["x"] * len(rows))
    moments = [start + timedelta(seconds=n) for n in range(len(rows))]
    for name in ("event_ts", "known_ts"):
        columns[name] = pa.array(moments, pa.timestamp("us", "UTC"))
    return pa.table(columns).select(["user_id", "day", "is_request", *TYPES])


def cut(rows, num_events=2, lookback_days=9):
    table = pa.Table.from_batches(timelines(rows, num_events, lookback_days))
    return {
        (row["user_id"], (row["day"] - DAY).days): (
            "".join(row["item_id"]),
            row["num_prior"],
            row["num_cut"],
        )
        for row in table.to_pylist()
    }


def test_a_timeline_holds_the_latest_before_the_day_and_the_first_of_the_day():
    rows = stream(
        *[("u", -1, item) for item in "abc"], ("u", 0, None), *[("u", 0, i) for i in "de"]
    )
    assert cut(rows) == {("u", 0): ("bcde", 2, 0)}
    assert cut(rows, num_events=9) == {("u", 0): ("abcde", 3, 0)}


def test_a_day_of_too_many_events_is_cut_at_four_times_n_and_the_cut_counted():
    rows = stream(("u", -1, "z"), ("u", 0, None), *[("u", 0, item) for item in "abcdefg"])
    assert cut(rows, num_events=1) == {("u", 0): ("zabcd", 1, 3)}
    # The day after has the latest ones, which the cut left out.
    rows = stream(("u", 0, None), *[("u", 0, item) for item in "abcdefg"], ("u", 1, None))
    assert cut(rows, num_events=1) == {("u", 0): ("abcd", 0, 3), ("u", 1): ("g", 1, 0)}


def test_events_of_longer_ago_than_the_lookback_are_forgotten_in_every_day_of_a_range():
    rows = stream(
        ("u", -2, "a"),
        ("u", -1, "b"),
        ("u", 0, None),
        ("u", 0, "c"),
        ("u", 1, None),
        ("u", 2, None),
    )
    assert cut(rows, num_events=9, lookback_days=2) == {
        ("u", 0): ("abc", 2, 0),
        ("u", 1): ("bc", 2, 0),
        ("u", 2): ("c", 1, 0),
    }


def test_users_without_events_have_empty_timelines_and_touch_nobody_elses():
    rows = stream(
        ("a", 0, None),
        ("b", -1, "x"),
        ("b", 0, None),
        ("b", 0, "y"),
        ("c", 0, None),
        ("d", -1, "z"),
        ("d", 1, None),
    )
    assert cut(rows) == {
        ("a", 0): ("", 0, 0),
        ("b", 0): ("xy", 1, 0),
        ("c", 0): ("", 0, 0),
        ("d", 1): ("z", 1, 0),
    }


def test_timelines_have_the_columns_of_their_table():
    (batch,) = timelines(stream(("u", 0, None)), 2, 9)
    assert batch.schema.names == list(tables.TIMELINES)
    assert batch.num_rows == 1


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [2, 0, 3, 2], [5, 2]])
def test_no_user_is_cut_in_two_however_the_stream_is(sizes):
    rows = stream(*[(user, 0, None) for user in "aabbbcc"]).to_batches()[0]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    batches = [rows.slice(low, size) for low, size in zip(starts, sizes, strict=True)]
    users = [table["user_id"].to_pylist() for table in whole_users(batches)]
    assert [user for group in users for user in group] == list("aabbbcc")
    assert sum(len(set(group)) for group in users) == 3


def test_events_lie_in_the_order_in_which_they_became_known(spark):
    schema = ", ".join(f"{name} {kind}" for name, kind in tables.EVENTS.items())

    def event(name, at, known, day=5, user="u"):
        place = (user, name, "feed", "click", 1.0)
        return (name, *place, at, known, False, None, date(2024, 3, day))

    # 5 March in Berlin begins at 23:00 on the 4th.
    events = frame(
        spark,
        schema,
        event("d", utc(5, 3), utc(5, 4)),
        event("c", utc(5, 2), utc(5, 4)),
        event("b", utc(5, 2), utc(5, 4), user="v"),
        event("a", utc(5, 2), utc(5, 4)),
        event("first", utc(5, 3), utc(4, 23)),
        event("prior", utc(4, 22), utc(4, 22, 59, 59, 999_999), day=4),
    )
    shown = frame(spark, "user_id string, event_day date", ("w", DAY), ("u", DAY), ("u", DAY))
    rows = timeline_rows(events, shown, [DAY], 8, 9, "Europe/Berlin")
    assert rows.dtypes == list(tables.TIMELINES.items())
    assert by(rows, "user_id", "item_id", "num_prior", "day") == {
        "u": (["prior", "first", "a", "c", "d"], 1, DAY),
        "v": (["b"], 0, DAY),
        "w": ([], 0, DAY),
    }
