"""Counts of days are added up over windows, as of the end of each day."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from jobs.spark.counting import Counting
from jobs.spark.daily_counts import feature_batches, packed_days, packed_events, stored_columns
from tests.jobs.spark.frames import utc
from validation import tables

COUNTS = {"shown": ["impression"], "acted": ["click", "buy"]}
USERS = {"user": ["user_id"]}


def day(number):
    return date(2024, 3, number)


def counting(windows, entities=USERS, recency=()):
    return Counting(entities, COUNTS, windows, {count: ["user"] for count in recency})


def events(*rows):
    """Rows of (moment, event type, user, ad)."""
    moments, types, users, ads = zip(*rows, strict=True)
    return pa.RecordBatch.from_pydict(
        {
            "day": pa.array([moment.date() for moment in moments]),
            "known_ts": pa.array(moments, pa.timestamp("us", "UTC")),
            "event_type": pa.array(types, pa.string()),
            "user_id": pa.array(users, pa.string()),
            "ad_id": pa.array(ads, pa.string()),
        }
    )


def features(rule, days, *batches, stored=(), buckets=3):
    """Rows of the entity_features table, each batch packed by a task of its own."""
    packed = [p for batch in batches for p in packed_events([batch], rule, buckets)]
    packed += [p for batch in stored for p in packed_days([batch], rule, buckets)]
    shuffled = pa.Table.from_batches(packed).sort_by("bucket").to_batches()
    found = pa.Table.from_batches(feature_batches(days, rule)(shuffled))
    schema = tables.entity_features(list(COUNTS), rule.windows_days, rule.recency)
    assert found.column_names == list(schema)
    return sorted(found.to_pylist(), key=lambda row: (row["entity"], row["key"], row["day"]))


def test_counts_of_days_are_rolled_up_as_of_the_end_of_each():
    batch = events(
        (utc(1), "impression", "u", "a"),
        (utc(1), "impression", "u", "a"),
        (utc(1, 2), "buy", "u", "a"),
        (utc(1, 3), "yawn", "u", "a"),
        (utc(2), "impression", "u", "b"),
        (utc(1), "click", "v", "a"),
        (utc(1), "impression", "v", "a"),
    )
    rows = features(counting([1, 2]), [day(2), day(3), day(4)], batch)
    found = {
        (row["key"], row["day"].day): tuple(row[f"{n}_{w}d"] for n in COUNTS for w in (1, 2))
        for row in rows
    }
    # Nobody was seen in the two days up to the 4th.
    assert found == {("u", 2): (1, 3, 0, 1), ("u", 3): (0, 1, 0, 0), ("v", 2): (0, 1, 0, 1)}


def test_every_event_counts_once_for_every_entity_and_a_missing_part_of_a_key_is_empty():
    entities = {
        "all": [],
        "user": ["user_id"],
        "user_ad": ["user_id", "ad_id"],
        "ad_user_ad": ["ad_id", "user_id", "ad_id"],
    }
    batch = events(
        (utc(1), "impression", "u", None), (utc(1), "click", None, ""), (utc(1), "buy", "u", "a")
    )
    rows = features(counting([1], entities), [day(1)], batch)
    found = {(row["entity"], row["key"]): (row["shown_1d"], row["acted_1d"]) for row in rows}
    assert found == {
        ("all", ""): (1, 2),
        ("user", "u"): (1, 1),
        ("user", ""): (0, 1),
        ("user_ad", "u\u0001"): (1, 0),
        ("user_ad", "\u0001"): (0, 1),
        ("user_ad", "u\u0001a"): (0, 1),
        ("ad_user_ad", "\u0001u\u0001"): (1, 0),
        ("ad_user_ad", "\u0001\u0001"): (0, 1),
        ("ad_user_ad", "a\u0001u\u0001a"): (0, 1),
    }


@pytest.mark.parametrize("buckets", [1, 5])
@pytest.mark.parametrize("parts", [1, 7])
def test_tasks_and_buckets_change_no_count(parts, buckets):
    draw = np.random.default_rng(3)
    drawn = [
        (
            utc(int(draw.integers(1, 9)), int(draw.integers(24))),
            str(draw.choice(["impression", "click", "buy"])),
            str(draw.integers(4)),
            str(draw.integers(3)),
        )
        for _ in range(200)
    ]
    entities = {"all": [], "user": ["user_id"], "user_ad": ["user_id", "ad_id"]}
    rule = counting([1, 3], entities, ["acted"])
    days = [day(number) for number in range(4, 9)]
    batches = [events(*drawn[n::parts]) for n in range(parts)]
    found = features(rule, days, *batches, buckets=buckets)
    assert len(found) > 60
    for row in found:
        for window in (1, 3):
            mine = [
                (moment, what)
                for moment, what, user, ad in drawn
                if 0 <= (row["day"] - moment.date()).days < window
                and row["key"]
                == {"all": "", "user": user, "user_ad": f"{user}\u0001{ad}"}[row["entity"]]
            ]
            acted = [moment for moment, what in mine if what != "impression"]
            assert row[f"acted_{window}d"] == len(acted)
            assert row[f"shown_{window}d"] == len(mine) - len(acted)
        assert row["acted_last_ts"] == max(acted, default=None)


def test_the_last_moment_of_a_window_is_that_of_its_last_day_that_counted():
    rule = counting([1, 2], recency=["shown", "acted"])
    batch = events(
        (utc(2, 7), "impression", "u", "a"),
        (utc(2, 9), "impression", "u", "a"),
        (utc(2, 8), "click", "u", "a"),
        (utc(4, 1), "impression", "u", "a"),
        (utc(4, 3), "impression", "v", "a"),
    )
    # As stored on the 3rd, when nobody did anything: its moments are those of the 2nd.
    moment = pa.timestamp("us", "UTC")
    third = pa.RecordBatch.from_pydict(
        {
            "entity": ["user"],
            "key": ["u"],
            "day": [day(3)],
            "shown_1d": [0],
            "acted_1d": [0],
            "shown_last_ts": pa.array([utc(2, 9)], moment),
            "acted_last_ts": pa.array([utc(2, 8)], moment),
        }
    )
    assert third.schema.names == stored_columns(rule)
    rows = features(rule, [day(3), day(4)], batch, stored=[third])
    found = {
        (row["key"], row["day"].day): (row["shown_last_ts"], row["acted_last_ts"]) for row in rows
    }
    # On the 4th the click of the 2nd has left the window.
    assert found == {
        ("u", 3): (utc(2, 9), utc(2, 8)),
        ("u", 4): (utc(4, 1), None),
        ("v", 4): (utc(4, 3), None),
    }


def stored(*rows):
    """Rows of (entity, key, day, shown, acted) as the table holds them."""
    names = ["entity", "key", "day", "shown_1d", "acted_1d"]
    return pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


def test_who_was_last_seen_before_the_longest_window_is_forgotten():
    batch = stored(("user", "u", day(1), 1, 0), ("user", "u", day(2), 0, 0))
    rows = features(
        counting([1, 2]), [day(2), day(3)], stored=[batch, stored(("user", "v", day(2), 1, 0))]
    )
    assert [(row["key"], row["day"].day) for row in rows] == [("u", 2), ("v", 2), ("v", 3)]


def test_the_longest_window_reaches_exactly_as_many_days_back():
    batch = stored(*[("all", "", day(number), 10**number, 0) for number in range(1, 5)])
    rows = features(counting([1, 3], {"all": []}), [day(4)], stored=[batch])
    assert [(row["shown_1d"], row["shown_3d"]) for row in rows] == [(10_000, 11_100)]


def test_an_entity_that_is_no_longer_declared_is_left_out_of_what_was_stored():
    batch = stored(("tag", "x", day(1), 5, 5), ("user", "u", day(1), 1, 0))
    rows = features(counting([1, 2]), [day(2)], stored=[batch])
    assert [(row["entity"], row["key"], row["shown_2d"]) for row in rows] == [("user", "u", 1)]
