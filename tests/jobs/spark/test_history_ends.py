"""A history ends where what was known strictly before the impression does."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from jobs.spark.buckets import each_bucket
from jobs.spark.history_ends import ENDS, bucket_ends, packed_shown, packed_timelines
from jobs.spark.searching import num_before
from tests.jobs.spark.frames import utc

DAY = date(2024, 3, 5)
MOMENT = pa.timestamp("us", "UTC")


def ends(timelines, shown, days=(DAY,), buckets=1):
    """Ends by impression id: timelines of (user, day, prior, moments), impressions of (id, user,
    moment)."""
    users, of, prior, known = zip(*timelines, strict=True)
    lists = {
        "user_id": users,
        "day": of,
        "num_prior": pa.array(prior, pa.int32()),
        "known_ts": pa.array(known, pa.list_(MOMENT)),
    }
    packed = list(packed_timelines([pa.RecordBatch.from_pydict(lists)], buckets))
    for impression, user, moment in shown:
        row = {
            "impression_id": [impression],
            "user_id": [user],
            "event_ts": pa.array([moment], MOMENT),
            "event_day": [moment.date()],
        }
        packed += packed_shown([pa.RecordBatch.from_pydict(row)], days, buckets)
    batches = pa.Table.from_batches(packed).sort_by("bucket").to_batches()
    found = pa.Table.from_batches(each_bucket(batches, bucket_ends))
    assert found.column_names == list(ENDS)
    return {row["impression_id"]: row["history_end"] for row in found.to_pylist()}


@pytest.mark.parametrize("buckets", [1, 4])
def test_a_history_ends_before_what_became_known_at_the_impressions_own_moment(buckets):
    before = [utc(4, 1), utc(4, 2)]
    timelines = [
        ("u", DAY, 2, [*before, utc(5, 1), utc(5, 3), utc(5, 3), utc(5, 4)]),
        ("v", DAY, 0, []),
        ("u", date(2024, 3, 4), 0, before),
        ("w", DAY, 1, [utc(4, 9)]),
    ]
    shown = [
        ("first", "u", utc(5)),
        ("at", "u", utc(5, 3)),
        ("after", "u", utc(5, 3, 0, 0, 1)),
        ("last", "u", utc(5, 9)),
        ("nothing", "v", utc(5, 9)),
        ("prior", "w", utc(5, 9)),
        ("stranger", "x", utc(5, 9)),
        ("other day", "u", utc(4, 3)),
    ]
    assert ends(timelines, shown, buckets=buckets) == {
        "first": 2,
        "at": 3,
        "after": 5,
        "last": 6,
        "nothing": 0,
        "prior": 1,
    }


def test_lines_are_searched_as_one_by_one():
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 9, 200)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    moments = np.concatenate([np.sort(draw.integers(0, 6, n)) for n in lengths])
    line, until = draw.integers(0, 200, 900), draw.integers(-1, 8, 900)
    expected = [
        np.searchsorted(moments[starts[one] : starts[one + 1]], moment)
        for one, moment in zip(line, until, strict=True)
    ]
    assert num_before(starts, moments, line, until).tolist() == expected
