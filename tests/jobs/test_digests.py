"""A digest is of the values of rows, not of how they lie in memory or in files."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.digests import RowSums, file_sums, rows_digest
from tests.jobs.spark.frames import utc

MOMENT = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    {
        "a": pa.int64(),
        "b": pa.string(),
        "c": pa.bool_(),
        "d": pa.list_(pa.int64()),
        "e": pa.list_(pa.string()),
        "f": pa.float64(),
        "g": MOMENT,
        "h": pa.date32(),
        "i": pa.int8(),
        "j": pa.binary(),
    }
)
ROWS = pa.table({"key": ["a", "b", "c"], "value": [1, None, 3]})


def maybe(values):
    return st.none() | values


@settings(deadline=None)
@given(
    values=st.lists(
        st.tuples(
            maybe(st.integers(-(2**63), 2**63 - 1)),
            maybe(st.text(max_size=3)),
            maybe(st.booleans()),
            maybe(st.lists(maybe(st.integers(0, 3)), max_size=3)),
            maybe(st.lists(maybe(st.sampled_from(["", "x", "y"])), max_size=3)),
            maybe(st.floats()),
            maybe(st.just(utc(1, 2, 3))),
            maybe(st.just(date(2024, 3, 1))),
            maybe(st.integers(-128, 127)),
            maybe(st.binary(max_size=3)),
        ),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_a_digest_is_of_the_values_not_of_how_they_lie(values, data, tmp_path_factory):
    rows = [dict(zip("abcdefghij", row, strict=True)) for row in values]
    whole = pa.Table.from_pylist(rows, schema=SCHEMA)
    cut = data.draw(st.integers(0, len(rows)))
    order = data.draw(st.permutations(range(len(rows))))
    others = [
        pa.concat_tables([whole.slice(cut), whole.slice(0, cut)]),
        pa.concat_tables([whole, whole, whole]).combine_chunks().slice(len(rows), len(rows)),
        whole.filter(pa.array([True] * len(rows))),
        whole.take(order).select(sorted(SCHEMA.names, reverse=True)),
        whole.replace_schema_metadata({"k": "v"}),
        whole.append_column("new", pa.nulls(len(rows), pa.int64())),
        whole.set_column(1, "b", whole["b"].dictionary_encode()),
    ]
    assert {rows_digest(other) for other in others} == {rows_digest(whole)}
    path = tmp_path_factory.mktemp("rows") / "x.parquet"
    pq.write_table(whole, path, row_group_size=2)
    assert file_sums(str(path)).digest == rows_digest(whole)


@pytest.mark.parametrize(
    "other",
    [
        pa.table({"key": ["a", "b", "c"], "value": [1, None, 4]}),
        pa.table({"key": ["a", "b", "c"], "value": [1, 0, 3]}),
        pa.table({"key": ["a", "b", "c"], "values": [1, None, 3]}),
        pa.table({"key": ["b", "a", "c"], "value": [1, None, 3]}),
        ROWS.slice(0, 2),
        pa.concat_tables([ROWS, ROWS]),
    ],
    ids=["value", "null", "name", "swapped", "rows", "copies"],
)
def test_a_digest_changes_with(other):
    assert rows_digest(other) != rows_digest(ROWS)


@pytest.mark.parametrize(
    ("kinds", "one", "other"),
    [
        ([pa.float64(), pa.float64()], (0.5, None), (None, 0.5)),
        ([pa.int64(), pa.int64()], (1, 2), (2, 1)),
        ([pa.list_(pa.int32()), pa.list_(pa.int32())], ([1], [2]), ([1, 2], [])),
        ([pa.list_(pa.int32()), pa.list_(pa.int32())], ([1], None), ([1], [])),
        ([pa.list_(pa.int32()), pa.int32()], ([1, None], 1), ([None, 1], 1)),
        ([pa.list_(pa.int32()), pa.int32()], ([None], 1), ([], 1)),
        ([pa.string(), pa.string()], ("", None), (None, "")),
        ([pa.bool_(), pa.int32()], (False, 1), (None, 1)),
    ],
    ids=[
        "moved",
        "swapped",
        "array border",
        "empty array",
        "gap in array",
        "array of nothing",
        "empty text",
        "false",
    ],
)
def test_a_digest_sees_where_values_are_missing(kinds, one, other):
    schema = pa.schema(dict(zip("ab", kinds, strict=True)))
    rows = [
        pa.Table.from_pylist([dict(zip("ab", values, strict=True))], schema=schema)
        for values in (one, other)
    ]
    assert rows_digest(rows[0]) != rows_digest(rows[1])


def test_zeros_and_what_is_no_number_are_one_each():
    def digest(value):
        return rows_digest(pa.table({"a": pa.array([value], pa.float64())}))

    assert digest(0.0) == digest(-0.0) != digest(float("nan"))
    assert digest(float("nan")) == digest(-float("nan"))


def test_parts_add_up_whatever_their_size():
    most = RowSums(1, 2**64 - 1, 1)
    assert most + RowSums(2, 2, 2**64 - 1) == RowSums(3, 1, 0)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="bytes, numbers, moments, lists, not struct"):
        rows_digest(pa.table({"a": pa.array([{"b": 1}])}))
