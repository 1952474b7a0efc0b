"""Values are counted by field and day: of rows known before the cut-off, once for a row."""

from datetime import date

import pyarrow as pa

from jobs.spark.seen_values import SEEN, seen_values
from tests.jobs.spark.frames import utc

ONE, TWO = date(2024, 3, 1), date(2024, 3, 2)
CUT_OFF = utc(2, 12)
ROWS = [
    # ad, kind, tags, known, day
    ("a", "click", ["x", "y", "x"], utc(1), ONE),
    ("a", "click", None, utc(1), ONE),
    ("b", "click", [], utc(2, 11), TWO),
    ("a", "view", ["x", None], utc(2), TWO),
    (None, "click", ["y"], utc(2), TWO),
    ("late", "click", ["late"], CUT_OFF, TWO),
]


def counts(within, size):
    names = ["item_id", "kind", "tags", "known_ts", "day"]
    columns = dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["known_ts"] = pa.array(columns["known_ts"], pa.timestamp("us", "UTC"))
    batches = pa.table(columns).to_batches(max_chunksize=size)
    found = list(seen_values(batches, {"ad_id": "item_id"}, ["tags"], CUT_OFF, within))
    assert {tuple(batch.schema.names) for batch in found} == {tuple(SEEN)}
    rows = [row for batch in found for row in batch.to_pylist()]
    return {(r["field"], r["value"], r["day"]): r["num"] for r in rows}


def test_values_are_counted_by_field_and_day():
    expected = {
        ("ad_id", "a", ONE): 2,
        ("ad_id", "a", TWO): 1,
        ("ad_id", "b", TWO): 1,
        ("tags", "x", ONE): 1,
        ("tags", "y", ONE): 1,
        ("tags", "x", TWO): 1,
        ("tags", "y", TWO): 1,
    }
    assert counts({}, 100) == counts({}, 2) == expected


def test_rows_of_other_values_do_not_count():
    found = counts({"kind": ["click"]}, 100)
    assert ("ad_id", "a", TWO) not in found and ("tags", "x", TWO) not in found
    assert found["ad_id", "a", ONE] == 2
