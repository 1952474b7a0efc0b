"""What changes in a raw log's columns is let in and told, or stops with a diff."""

from datetime import date

import pytest

from jobs import schemas
from jobs.delta import read_days
from jobs.errors import ConfigError
from tests.jobs.samples import COMMIT, contract

DAYS = [date(2024, 3, day) for day in (1, 2, 3, 4)]
BY_DAY = contract(feeds__shown__path="shown/{day}", feeds__shown__columns={"age": "int"})
FEED = BY_DAY.feeds["shown"]
USUAL = {"id": "string", "user": "string", "at": "int", "position": "float", "more": "int"}


def changes(*days, held=None, feed=FEED):
    found = dict(zip(DAYS[-len(days) :], days, strict=True))
    return schemas.changes("shown", feed, found, held or {})


def without(name, **others):
    return {key: kind for key, kind in USUAL.items() if key != name} | others


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (USUAL, []),
        (USUAL | {"device": "string"}, ["new column 'device' (string)"]),
        (USUAL | {"at": "bigint"}, ["column 'at' is bigint, was int"]),
        (USUAL | {"position": "double"}, ["column 'position' is double, was float"]),
        # Nothing reads it.
        (without("more"), ["column 'more' is gone"]),
        (USUAL | {"more": "string"}, ["column 'more' is string, was int"]),
    ],
)
def test_a_new_column_and_a_widened_type_are_told(now, told):
    assert changes(USUAL, now) == [f"shown 2024-03-04: {text}" for text in told]
    assert changes(now, held={DAYS[0]: USUAL}) == changes(USUAL, now)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (without("user"), "column 'user' (string) is missing (it has ['at', 'id', "),
        (without("user", users="string"), "'user' (string) is missing (the nearest is 'users')"),
        (USUAL | {"at": "smallint"}, "column 'at' is narrowed from int to smallint"),
        (USUAL | {"position": "int"}, "column 'position' is changed from float to int"),
        (USUAL | {"at": "string"}, "column 'at' is changed from int to string"),
    ],
)
def test_anything_else_stops_with_a_diff(now, told):
    with pytest.raises(ConfigError) as error:
        changes(USUAL, now)
    assert "feeds.shown: 2024-03-04: the raw columns have changed since 2024-03-03: " in str(
        error.value
    )
    assert told in str(error.value)
    assert str(error.value).endswith("; mend the log, or say in the contract what is read now")


def test_a_type_that_the_contract_declares_is_accepted_whatever_it_was():
    assert changes(USUAL | {"age": "bigint"}, USUAL | {"age": "int"}) == [
        "shown 2024-03-04: column 'age' is int, was bigint"
    ]


def test_a_row_of_json_may_leave_out_a_column():
    feed = FEED.model_copy(update={"format": "jsonl"})
    assert changes(USUAL, without("user"), feed=feed) == ["shown 2024-03-04: column 'user' is gone"]


def test_a_day_is_held_against_the_last_before_it():
    held = {DAYS[0]: USUAL, DAYS[1]: USUAL | {"at": "bigint"}, DAYS[3]: without("user")}
    assert changes(USUAL | {"at": "bigint"}, held=held) == []
    assert changes(USUAL, held={DAYS[3]: without("user")}) == []
    # One file is the same file anew, wherever it is recorded.
    one_file = contract().feeds["shown"]
    with pytest.raises(ConfigError, match="'user' \\(string\\) is missing"):
        changes(without("user"), held={DAYS[3]: USUAL}, feed=one_file)


def test_what_was_found_is_recorded_once_beside_other_feeds(tmp_path):
    uri = str(tmp_path / "schemas")
    shown = {DAYS[0]: USUAL, DAYS[1]: USUAL | {"device": "string"}}
    assert schemas.record(uri, {}, COMMIT) is None
    assert schemas.record(uri, {"shown": shown}, COMMIT) == 1
    assert schemas.record(uri, {"shown": shown}, COMMIT) == 1
    assert schemas.record(uri, {"acts": {DAYS[1]: {"id": "string"}}}, COMMIT) == 2
    assert schemas.held_columns(uri) == {"shown": shown, "acts": {DAYS[1]: {"id": "string"}}}
    assert read_days(uri, DAYS[:1], ["feed", "column", "type"]).num_rows == len(USUAL)
