"""Which rows are a user's is told by the contract, table by table, and never by likeness."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.user_rows import (
    People,
    copy_without,
    count_rows,
    impressions_of,
    is_readable,
    user_rows,
)
from tests.jobs.samples import contract

PEOPLE = People(frozenset(["u1", "7"]), frozenset(["i1", "12"]))
CROSSED = {
    "all": [],
    "user": ["user_id"],
    "ad": ["ad_id"],
    "surface": ["surface"],
    "surface_user": ["surface", "user_id"],
}
USERS = {
    "kind": "attributes",
    "path": "users.parquet",
    "entity": "user",
    "key": "who",
    "attributes": {"plan": "plan"},
}
LOG = contract(
    features__entities=CROSSED,
    feeds__users=USERS,
    feeds__ads={**USERS, "entity": "ad", "path": "ads.parquet"},
    feeds__acts__impression_id=["shown_id"],
)


def theirs(log, table, columns):
    """Whether each row is one of the people's."""
    rows = user_rows(log, table, list(columns))
    assert rows is not None
    return rows.of(pa.record_batch(columns), PEOPLE).to_pylist()


@pytest.mark.parametrize("table", ["impressions", "events", "timelines", "examples", "anything"])
def test_rows_with_a_user_go_by_the_user(table):
    columns = {"user_id": ["u1", "u11", None], "impression_id": ["i9", "i1", "i1"]}
    assert theirs(LOG, table, columns) == [True, False, False]


@pytest.mark.parametrize("table", ["outcomes", "labels", "teacher_scores/shop-teacher"])
def test_rows_without_a_user_go_by_the_impression(table):
    assert theirs(LOG, table, {"impression_id": ["i1", "i11", None]}) == [True, False, False]


def test_attributes_are_a_users_only_if_they_are_of_users():
    assert theirs(LOG, "attributes_users", {"entity_id": ["u1", "u2"]}) == [True, False]
    assert user_rows(LOG, "attributes_ads", ["entity_id"]) is None


def test_counts_are_a_users_whose_key_has_the_user_in_its_place():
    columns = {
        "entity": ["user", "user", "ad", "surface_user", "surface_user", "surface", "all"],
        "key": ["u1", "u2", "u1", "feed\u0001u1", "u1\u0001u2", "u1", ""],
    }
    assert theirs(LOG, "entity_features", columns) == [
        True,
        False,
        False,
        True,
        False,
        False,
        False,
    ]


def test_a_vocabularys_rows_are_a_users_in_the_field_of_users():
    columns = {"field": ["user_id", "ad_id", "user_id"], "value": ["u1", "u1", "u2"]}
    assert theirs(LOG, "vocabulary", columns) == [True, False, False]


@pytest.mark.parametrize(
    ("feed", "row", "found"),
    [
        ("shown", {"user": "u1", "ad": "a"}, True),
        ("shown", {"user": 7}, True),
        ("shown", {"user": "a", "ad": "u1"}, False),
        ("shown", {"ad": "a"}, False),
        ("acts", {"shown_id": 12, "id": 1}, True),
        ("acts", {"shown_id": 13, "id": 12}, False),
        ("visits", {"user": "u1"}, True),
        ("users", {"who": "u1"}, True),
        ("ads", {"who": "u1"}, False),
        ("feed that the contract no longer has", {"user": "u1"}, False),
    ],
)
def test_a_rejected_row_is_a_users_where_its_feed_keeps_the_user(feed, row, found):
    assert theirs(LOG, "quarantine", {"feed": [feed], "row": [json.dumps(row)]}) == [found]


def test_every_rejected_row_counts_where_only_an_expression_tells_the_user():
    log = contract(feeds__visits__user_id={"expr": "concat('u', user)"})
    columns = {"feed": ["visits", "shown"], "row": ['{"user": "9"}', '{"user": "9"}']}
    assert theirs(log, "quarantine", columns) == [True, False]


def test_a_table_without_users_is_left_alone():
    assert user_rows(LOG, "promotions", ["number", "members"]) is None


@pytest.fixture
def file(tmp_path):
    rows = pa.table(
        {
            "user_id": ["u1", "u2", "u1", None],
            "impression_id": ["i1", "i2", None, "i4"],
            "many": pa.array([[1], [], None, [2, 3]], pa.list_(pa.int8())),
        }
    )
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=2)
    return str(tmp_path / "x.parquet")


def test_a_files_rows_are_counted_and_copied_without_the_users(file, tmp_path):
    rows = user_rows(LOG, "events", ["user_id"])
    assert rows is not None
    assert count_rows(file, rows, PEOPLE) == (2, 4)
    target = tmp_path / "day=1" / "y.parquet"
    assert copy_without(file, target, rows, PEOPLE)
    assert pq.ParquetFile(target).read() == pq.ParquetFile(file).read().take([1, 3])
    assert impressions_of([file], PEOPLE.users) == {"i1"}


def test_no_file_is_written_of_which_nothing_is_left(file, tmp_path):
    rows = user_rows(LOG, "labels", ["impression_id"])
    assert rows is not None
    everybody = People(frozenset(), frozenset(["i1", "i2", "i4"]))
    pq.write_table(pa.table({"impression_id": ["i1", "i2"]}), file)
    assert not copy_without(file, tmp_path / "day=1" / "y.parquet", rows, everybody)
    assert not (tmp_path / "day=1").exists()


def test_a_file_that_a_crash_cut_off_is_told(file, tmp_path):
    half = tmp_path / "half.parquet"
    half.write_bytes(Path(file).read_bytes()[:100])
    assert (is_readable(file), is_readable(str(half))) == (True, False)
