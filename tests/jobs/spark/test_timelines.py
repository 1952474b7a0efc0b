"""What was known at any moment of a day is a prefix of the day's timeline."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from jobs.digests import rows_digest
from jobs.spark.buckets import PACKED, num_buckets
from jobs.spark.histories import (
    HISTORY_COLUMNS,
    REQUEST_COLUMNS,
    Cut,
    packed_events,
    packed_requests,
)
from jobs.spark.timelines import packed_histories, timeline_batches
from tests.jobs.spark.frames import by, frame, utc
from validation import tables

DAY = date(2024, 3, 5)
TYPES = ["x", "B", "C"]
"""Event types; an item of such a name has the type, all others have the first."""


def event_batch(rows):
    """Events of (user, day offset, item), known one second after the other."""
    moments = [utc(1) + timedelta(seconds=n) for n in range(len(rows))]
    columns = {
        "user_id": pa.array([user for user, _, _ in rows], pa.string()),
        "event_id": pa.array([f"{n:03d}" for n in range(len(rows))], pa.string()),
        "day": pa.array([DAY + timedelta(days=day) for _, day, _ in rows], pa.date32()),
        "event_type": pa.array([item if item in TYPES else "x" for _, _, item in rows]),
        "surface": pa.array(["y"] * len(rows), pa.string()),
        "item_id": pa.array([item for _, _, item in rows], pa.string()),
        "value": pa.array([None] * len(rows), pa.float64()),
        "event_ts": pa.array(moments, pa.timestamp("us", "UTC")),
        "known_ts": pa.array(moments, pa.timestamp("us", "UTC")),
        "time_is_synthetic": pa.array([False] * len(rows), pa.bool_()),
    }
    return pa.RecordBatch.from_pydict({name: columns[name] for name in HISTORY_COLUMNS})


def stream(*rows):
    """Events, and the timelines wanted: rows of (user, day offset, item); no item is a wish."""
    wished = [(user, DAY + timedelta(days=day)) for user, day, item in rows if item is None]
    return event_batch([row for row in rows if row[2] is not None]), wished


def cut(rows, num_events=2, lookback_days=9, sizes=(), num_buckets=1, recent=None, worth=None):
    """Timelines by user and day offset: items, `num_prior`, `num_cut`.

    Each of `sizes` rows are packed by a task of their own; all by one if there are none.
    """
    events, wished = rows
    kept = Cut(num_events, lookback_days, recent, worth)
    days = sorted({day for _, day in wished})
    asked = pa.RecordBatch.from_pydict(
        {
            "user_id": pa.array([user for user, _ in wished], pa.string()),
            "event_day": pa.array([day for _, day in wished], pa.date32()),
        }
    )
    packed = list(packed_requests([asked], days, num_buckets))
    low = 0
    for size in sizes or [events.num_rows]:
        packed += packed_events([events.slice(low, size)], days, kept, TYPES, num_buckets)
        low += size
    assert low == events.num_rows
    shuffled = pa.Table.from_batches(packed).sort_by("bucket")
    table = pa.Table.from_batches(timeline_batches(days, kept)(shuffled.to_batches()))
    return {
        (row["user_id"], (row["day"] - DAY).days): (
            "".join(row["item_id"]),
            row["num_prior"],
            row["num_cut"],
        )
        for row in table.to_pylist()
    }


def shuffled_rows(events, shown, kept, partitions=2):
    """Timelines of `DAY` through Spark."""
    buckets = num_buckets(partitions)
    schema = ", ".join(f"{name} {kind}" for name, kind in PACKED.items())
    packed = events.select(*HISTORY_COLUMNS).mapInArrow(
        lambda batches: packed_events(batches, [DAY], kept, ["click"], buckets), schema
    )
    asked = shown.select(*REQUEST_COLUMNS).mapInArrow(
        lambda batches: packed_requests(batches, [DAY], buckets), schema
    )
    schema = ", ".join(f"{name} {kind}" for name, kind in tables.TIMELINES.items())
    build = timeline_batches([DAY], kept)
    return packed_histories(packed, asked, partitions).mapInArrow(build, schema)


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


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [5, 0, 9, 10], [12, 12]])
@pytest.mark.parametrize("num_buckets", [1, 7])
def test_tasks_and_buckets_change_no_timeline(sizes, num_buckets):
    # Busy users in between, so that tasks leave out what no timeline can hold.
    events = [("u", day, item) for day in (-1, 0, 1) for item in "abcdef"]
    events += [("v", 0, "x"), ("v", 1, "y"), *[("w", -1, item) for item in "pqrs"]]
    rows = stream(*events, ("u", 0, None), ("u", 1, None), ("w", 1, None))
    assert cut(rows, num_events=1, sizes=sizes, num_buckets=num_buckets) == {
        ("u", 0): ("fabcd", 1, 2),
        ("u", 1): ("fabcd", 1, 2),
        ("v", 0): ("x", 0, 0),
        ("v", 1): ("xy", 1, 0),
        ("w", 1): ("s", 1, 0),
    }


@pytest.mark.parametrize("sizes", [[17], [1] * 17, [5, 0, 9, 3]])
def test_of_a_long_history_the_latest_and_the_most_worth_stay(sizes):
    events = [("u", -3, item) for item in "aBcC"] + [("u", -2, item) for item in "BdefB"]
    events += [("u", -1, item) for item in "gh"] + [("u", 0, item) for item in "iCjkl"]
    events += [("v", -1, "m")]
    rows = stream(*events, ("u", 0, None), ("u", 1, None), ("v", 0, None))
    worth = {"B": 1.0, "C": 2.0}
    assert cut(rows, num_events=4, recent=2, worth=worth, sizes=sizes) == {
        # Of the older ones C, then the later B; none of the day itself is left out.
        ("u", 0): ("CBghiCjkl", 4, 0),
        ("u", 1): ("CCkl", 4, 0),
        ("v", 0): ("m", 1, 0),
    }
    # What is forgotten is not sampled: the day after remembers one day less.
    found = cut(rows, num_events=4, lookback_days=3, recent=2, worth=worth, sizes=sizes)
    assert [found["u", day][0] for day in (0, 1)] == ["CBghiCjkl", "BCkl"]


def test_an_event_is_worth_its_value_where_types_are_not_weighed():
    rows = event_batch([("u", -1, item) for item in "abcde"])
    values = pa.array([3.0, None, 7.0, 5.0, 0.0])
    rows = rows.set_column(rows.schema.get_field_index("value"), "value", values)
    assert cut((rows, [("u", DAY)]), num_events=3, recent=1) == {("u", 0): ("cde", 3, 0)}


def test_a_user_with_a_million_events_is_no_larger_in_the_shuffle_than_a_timeline():
    number = 250_000
    rows = pa.Table.from_batches(
        [event_batch([("busy", day, "x")] * 2).slice(1) for day in (-2, -1, 0, 1)]
    ).take(np.repeat(np.arange(4), number))
    micros = np.arange(4 * number) + 1_700_000_000_000_000
    known = pa.array(micros, pa.timestamp("us", "UTC"))
    rows = rows.set_column(rows.column_names.index("known_ts"), "known_ts", known)
    days = [DAY, DAY + timedelta(days=1)]
    packed = list(packed_events(rows.to_batches(20_000), days, Cut(3, 9), TYPES, 1))
    tables = [pa.ipc.open_stream(p["packed"][0].as_buffer()).read_all() for p in packed]
    # A task packs half a million at a time: N of the days before, 4N first and N last of each day.
    assert [table.num_rows for table in tables] == [3, 2 * (12 + 3)]
    asked = pa.RecordBatch.from_pydict({"user_id": ["busy"] * 2, "event_day": days})
    packed += packed_requests([asked], days, 1)
    (found,) = timeline_batches(days, Cut(3, 9))(packed)
    assert found["num_prior"].to_pylist() == [3, 3]
    assert found["num_cut"].to_pylist() == [number - 12] * 2
    kept = [*range(2 * number - 3, 2 * number + 12), *range(3 * number - 3, 3 * number + 12)]
    assert found["known_ts"].flatten().cast(pa.int64()).to_pylist() == micros[kept].tolist()


def test_events_lie_in_the_order_in_which_they_became_known(spark):
    schema = ", ".join(f"{name} {kind}" for name, kind in tables.EVENTS.items())

    def event(name, at, known, day=5, user="u", what="click"):
        place = (user, name, "feed", what, 1.0)
        return (name, *place, at, known, False, None, date(2024, 3, day))

    # The log's days are Berlin's: 5 March begins at 23:00 on the 4th.
    events = frame(
        spark,
        schema,
        event("d", utc(5, 3), utc(5, 4)),
        event("c", utc(5, 2), utc(5, 4)),
        event("b", utc(5, 2), utc(5, 4), user="v"),
        event("a", utc(5, 2), utc(5, 4)),
        event("first", utc(5, 3), utc(4, 23)),
        event("sleep", utc(5, 3), utc(5, 3), what="yawn"),
        event("prior", utc(4, 22), utc(4, 22, 59, 59, 999_999), day=4),
    )
    shown = frame(spark, "user_id string, event_day date", ("w", DAY), ("u", DAY), ("u", DAY))
    rows = shuffled_rows(events, shown, Cut(8, 9))
    assert rows.dtypes == list(tables.TIMELINES.items())
    assert by(rows, "user_id", "item_id", "num_prior", "day") == {
        "u": (["prior", "first", "a", "c", "d"], 1, DAY),
        "v": (["b"], 0, DAY),
        "w": ([], 0, DAY),
    }


def test_partitions_change_no_row(spark):
    schema = ", ".join(f"{name} {kind}" for name, kind in tables.EVENTS.items())
    rows = [
        # Moments coincide, so that only the id tells which comes first.
        (f"e{n}", f"u{n % 5}", f"i{n}", "feed", "click", None, utc(5), utc(5, n % 3))
        for n in range(60)
    ]
    events = frame(spark, schema, *[(*row, False, None, DAY) for row in rows])
    shown = frame(spark, "user_id string, event_day date", ("w", DAY))
    found = [
        shuffled_rows(events.repartition(n, "item_id"), shown, Cut(2, 9), n).toArrow()
        for n in (1, 2, 7)
    ]
    assert found[0].num_rows == 6
    assert len({rows_digest(rows) for rows in found}) == 1
