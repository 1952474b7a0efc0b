"""An example joins what is known of an impression."""

from datetime import date

import pyarrow as pa
import pytest

from jobs.spark.counting import Counting
from jobs.spark.examples import (
    by_impression,
    example_batches,
    example_columns,
    label_columns,
    shown_columns,
    shown_rows,
    with_labels,
)
from tests.jobs.samples import contract
from tests.jobs.spark.frames import frame, utc

DAY, NEXT = date(2024, 3, 5), date(2024, 3, 6)
LOG = contract(
    features__entities={"all": [], "user": ["user_id"], "ad": ["ad_id"], "surface": ["surface"]},
    features__windows_days=[1],
    features__recency={"click": ["user", "ad"]},
)
COUNTING = Counting.of(LOG.features)
MOMENT = pa.timestamp("us", "UTC")
LAST = pa.array([None, utc(4, 23), None, None], MOMENT)
"""The last click of every entity."""


def shown(spark, *rows):
    """Impressions of (id, day, moment), as an example has them."""
    found = frame(
        spark,
        "impression_id string, user_id string, ad_id string, surface string, event_ts timestamp, "
        "known_ts timestamp, position double, day date",
        *[(name, "u", "a", "search", at, utc(5), None, day) for name, day, at in rows],
    )
    return shown_rows(found, LOG)


def labels(*names, day=DAY, click=1):
    values = {"label_click": click, "mature_ts_click": utc(5), "mature_ts_buy": utc(6)}
    schema = pa.schema(
        [
            ("impression_id", pa.string()),
            ("day", pa.date32()),
            ("label_click", pa.int8()),
            ("mature_ts_click", MOMENT),
            ("label_buy", pa.int8()),
            ("mature_ts_buy", MOMENT),
        ]
    )
    return pa.Table.from_pylist([{"impression_id": n, "day": day, **values} for n in names], schema)


def ends(*names, day=DAY):
    columns = {"impression_id": names, "day": pa.array([day] * len(names), pa.date32())}
    return pa.table({**columns, "history_end": pa.array([7] * len(names), pa.int32())})


def counts(*names, day=DAY):
    """Of every entity n the counts n, n + 10, …"""
    num = len(COUNTING.entities)
    each = {
        "day": pa.array([day] * num, pa.date32()),
        "entity": pa.array(range(num), pa.int16()),
        **{name: [10 * n + e for e in range(num)] for n, name in enumerate(COUNTING.windowed)},
        "click_last_ts": LAST.cast(pa.int64()).fill_null(-(2**63)),
    }
    return pa.concat_tables(pa.table({"impression_id": [name] * num, **each}) for name in names)


def examples(*sides, days=(DAY, NEXT), buckets=3):
    pack = by_impression(days, buckets)
    packed = [batch for side in sides for batch in pack(side.to_batches())]
    packed = pa.Table.from_batches(packed).sort_by("bucket").to_batches()
    found = list(example_batches(COUNTING, LOG)(packed))
    return [row for batch in found for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def impressions(spark):
    rows = shown(
        spark,
        # 23:30 UTC is half past midnight in Berlin.
        ("i", DAY, utc(4, 23, 30)),
        ("j", NEXT, utc(5, 23, 30)),
        ("unlabelled", DAY, utc(4, 23, 30)),
        ("endless", DAY, utc(4, 23, 30)),
    )
    assert rows.dtypes == list(shown_columns(LOG).items())
    return rows.toArrow()


@pytest.mark.parametrize("buckets", [1, 3])
def test_an_example_has_everything_that_is_known_of_its_impression(impressions, buckets):
    found = examples(
        impressions,
        labels("i", "endless"),
        labels("j", day=NEXT, click=0),
        ends("unlabelled", "i"),
        ends("j", day=NEXT),
        counts("i", "unlabelled", "endless"),
        counts("j", day=NEXT),
        buckets=buckets,
    )
    names = [f"{entity}_{name}" for entity in COUNTING.entities for name in COUNTING.windowed]
    assert len(names) == 16
    expected = {
        "impression_id": "i",
        "user_id": "u",
        "ad_id": "a",
        "surface": "search",
        "hour": "0",
        "event_ts": utc(4, 23, 30),
        "known_ts": utc(5),
        "domain": "app",
        "vertical": "search",
        "history_end": 7,
        "position": None,
        **{
            f"{entity}_{name}": 10 * n + e
            for e, entity in enumerate(COUNTING.entities)
            for n, name in enumerate(COUNTING.windowed)
        },
        "user_click_last_ts": utc(4, 23),
        "ad_click_last_ts": None,
        "label_click": 1,
        "mature_ts_click": utc(5),
        "label_buy": None,
        "mature_ts_buy": utc(6),
        "day": DAY,
    }
    later = {"impression_id": "j", "day": NEXT, "event_ts": utc(5, 23, 30), "label_click": 0}
    assert found == [expected, {**expected, **later}]
    assert list(found[0]) == list(example_columns(LOG))


def test_a_side_that_nothing_is_known_of_makes_no_example(impressions):
    assert examples(impressions, labels("i"), counts("i")) == []


def test_other_labels_change_nothing_else(impressions):
    sides = impressions, labels("i", "endless"), ends("i", "endless"), counts("i", "endless")
    held = pa.Table.from_pylist(examples(*sides))
    asked = []

    def of_day(day):
        asked.append(day)
        return labels("i", click=0).drop_columns("day")

    columns = list(example_columns(LOG))
    batches = held.to_batches(max_chunksize=1)
    found = [r for b in with_labels(batches, columns, of_day) for r in b.to_pylist()]
    (before,) = [row for row in held.to_pylist() if row["impression_id"] == "i"]
    assert asked == [DAY]
    assert found == [{**before, "label_click": 0}]
    assert {*label_columns(LOG)} >= {"label_click", "mature_ts_buy"}
