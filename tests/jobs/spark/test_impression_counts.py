"""Counts are exact at the impression: what became known strictly before it, and nothing else."""

from datetime import date

import pyarrow as pa
import pytest

from jobs.spark.buckets import each_bucket
from jobs.spark.counting import Counting
from jobs.spark.impression_counts import (
    before_columns,
    bucket_counts,
    bucket_rows,
    count_columns,
    packed_before,
    packed_increments,
    packed_queries,
)
from tests.jobs.spark.frames import utc

MOMENT = pa.timestamp("us", "UTC")
NOON = utc(2, 12)
RULE = Counting(
    {"all": [], "user": ["user_id"]},
    {"shown": ["impression"], "acted": ["click", "buy"]},
    [1, 7],
    {"acted": ["user"]},
)


def shuffled(packed):
    return pa.Table.from_batches(packed).sort_by("bucket").to_batches()


def counts(impressions, events=(), before=(), buckets=2):
    """Counts by impression id.

    Args:
        impressions: Rows of (id, moment, user).
        events: Rows of (moment, event type, user).
        before: Rows of (entity, key, day, shown 1d, shown 7d, acted 1d, acted 7d, last).
    """
    packed = []
    for ids, moments, users in [zip(*impressions, strict=True)]:
        batch = {
            "impression_id": pa.array(ids),
            "day": pa.array([moment.date() for moment in moments]),
            "event_ts": pa.array(moments, MOMENT),
            "user_id": pa.array(users, pa.string()),
        }
        packed += packed_queries([pa.RecordBatch.from_pydict(batch)], RULE, buckets)
    for moments, types, users in [zip(*events, strict=True)] if events else []:
        batch = {
            "day": pa.array([moment.date() for moment in moments]),
            "known_ts": pa.array(moments, MOMENT),
            "event_type": pa.array(types),
            "user_id": pa.array(users, pa.string()),
        }
        packed += packed_increments([pa.RecordBatch.from_pydict(batch)], RULE, buckets)
    if before:
        columns = dict(zip(before_columns(RULE), zip(*before, strict=True), strict=True))
        columns["acted_last_ts"] = pa.array(columns["acted_last_ts"], MOMENT)
        packed += packed_before([pa.RecordBatch.from_pydict(columns)], RULE, buckets)
    days = sorted({moment.date() for _, moment, _ in impressions})
    counted = each_bucket(shuffled(packed), lambda parts: bucket_counts(parts, RULE, days, buckets))
    rows = each_bucket(shuffled(list(counted)), lambda parts: bucket_rows(parts, RULE))
    found = pa.Table.from_batches(rows)
    assert found.column_names == list(count_columns(RULE))
    return {row.pop("impression_id"): row for row in found.to_pylist()}


@pytest.mark.parametrize("buckets", [1, 5])
def test_counts_hold_what_became_known_strictly_before_the_impression(buckets):
    found = counts(
        [("i", NOON, "u"), ("j", NOON.replace(microsecond=1), "u"), ("k", NOON, "w")],
        [
            (utc(2, 11, 59, 59, 999_999), "impression", "u"),
            (NOON, "click", "u"),
            (utc(2, 1), "buy", "v"),
            (utc(1, 1), "buy", "u"),
        ],
        [
            ("user", "u", date(2024, 3, 1), 10, 11, 20, 21, None),
            # Of the impression's own day the stored counts know too much.
            ("user", "u", date(2024, 3, 2), 500, 500, 500, 500, None),
            ("user", "v", date(2024, 3, 1), 700, 700, 700, 700, None),
            ("gone", "u", date(2024, 3, 1), 900, 900, 900, 900, None),
        ],
        buckets,
    )
    names = ["user_shown_1d", "user_shown_7d", "user_acted_1d", "user_acted_7d", "all_acted_1d"]
    assert {key: tuple(row[name] for name in names) for key, row in found.items()} == {
        "i": (11, 12, 20, 21, 1),
        "j": (11, 12, 21, 22, 2),
        "k": (0, 0, 0, 0, 1),
    }


def test_the_last_moment_is_known_strictly_before_the_impression():
    found = counts(
        [
            ("i", NOON, "u"),
            ("j", NOON.replace(microsecond=1), "u"),
            ("k", NOON, "v"),
            ("l", NOON, "w"),
        ],
        [
            (utc(2, 11), "impression", "u"),
            (utc(2, 10), "click", "u"),
            (NOON, "buy", "u"),
            (utc(2, 9), "impression", "v"),
        ],
        [
            ("user", "u", date(2024, 3, 1), 1, 1, 1, 1, utc(1, 5)),
            ("user", "v", date(2024, 3, 1), 0, 0, 2, 2, utc(1, 6)),
            ("user", "w", date(2024, 3, 1), 1, 1, 0, 0, None),
        ],
    )
    assert {key: row["user_acted_last_ts"] for key, row in found.items()} == {
        "i": utc(2, 10),
        "j": NOON,
        "k": utc(1, 6),
        "l": None,
    }


def test_an_impression_before_all_events_counts_nothing():
    found = counts([("i", NOON, "u"), ("j", NOON, None)])
    assert set(found) == {"i", "j"}
    values = [v for row in found.values() for k, v in row.items() if k.endswith("d")]
    assert values == [0] * 16
