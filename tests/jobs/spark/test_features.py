"""Counts are exact at the impression, and attributes are those that were known then."""

from datetime import date

import pytest

from jobs.spark.features import (
    by_entity,
    counts_at_impressions,
    daily_counts,
    event_counts,
    rolled_up,
    today_counts,
    with_attributes,
)
from tests.jobs.spark.frames import by, frame, listed, utc
from validation import tables

COUNTS = {"shown": ["impression"], "acted": ["click", "buy"]}
ENTITIES = {"all": [], "user": ["user_id"], "user_ad": ["user_id", "ad_id"]}


def day(number):
    return date(2024, 3, number)


def test_an_event_counts_where_its_type_is_counted(spark):
    events = frame(spark, "id int, event_type string", (1, "impression"), (2, "buy"), (3, "yawn"))
    counted = event_counts(events, COUNTS)
    assert by(counted, "id", "shown", "acted") == {1: (1, 0), 2: (0, 1)}


def test_every_row_stands_once_for_every_entity(spark):
    rows = frame(spark, "user_id string, ad_id string, x int", ("u", None, 1), (None, "", 2))
    assert listed(by_entity(rows, ENTITIES, ["x"]), "x", "entity") == [
        {"entity": entity, "key": key, "x": x}
        for x, entity, key in [
            (1, "all", ""),
            (1, "user", "u"),
            (1, "user_ad", "u\u0001"),
            (2, "all", ""),
            (2, "user", ""),
            (2, "user_ad", "\u0001"),
        ]
    ]


def test_counts_of_days_are_rolled_up_as_of_the_end_of_each(spark):
    schema = "entity string, key string, day date, shown bigint, acted bigint"
    rows = [
        ("user", "u", day(1), 1, 0),
        ("user", "u", day(1), 1, 1),
        ("user", "u", day(2), 1, 0),
        ("user", "v", day(1), 1, 1),
    ]
    daily = daily_counts(frame(spark, schema, *rows), list(COUNTS))
    rolled = rolled_up(daily, list(COUNTS), [1, 2], [day(2), day(3), day(4)])
    assert rolled.dtypes == list(tables.entity_features(list(COUNTS), [1, 2]).items())
    found = {
        (row["key"], row["day"].day): tuple(row[f"{n}_{w}d"] for n in COUNTS for w in (1, 2))
        for row in listed(rolled)
    }
    # Nobody was seen in the two days up to the 4th.
    assert found == {("u", 2): (1, 3, 0, 1), ("u", 3): (0, 1, 0, 0), ("v", 2): (0, 1, 0, 1)}


def test_the_last_moment_of_a_window_is_that_of_its_last_day_that_counted(spark):
    schema = "entity string, key string, day date, known_ts timestamp, shown bigint, acted bigint"
    rows = [
        ("user", "u", day(2), utc(2, 7), 1, 0),
        ("user", "u", day(2), utc(2, 9), 1, 0),
        ("user", "u", day(2), utc(2, 8), 0, 1),
        ("user", "u", day(4), utc(4, 1), 1, 0),
        ("user", "v", day(4), utc(4, 3), 1, 0),
    ]
    daily = daily_counts(frame(spark, schema, *rows), list(COUNTS), ["shown", "acted"])
    # As stored on the 3rd, when nobody did anything: its moments are those of the 2nd.
    names = ["entity", "key", "day", "shown_1d", "acted_1d", "shown_last_ts", "acted_last_ts"]
    assert daily.columns == names
    kinds = ", ".join(f"{name} {kind}" for name, kind in daily.dtypes)
    third = frame(spark, kinds, ("user", "u", day(3), 0, 0, utc(2, 9), utc(2, 8)))
    rolled = rolled_up(
        daily.unionByName(third), list(COUNTS), [1, 2], [day(3), day(4)], ["shown", "acted"]
    )
    expected = tables.entity_features(list(COUNTS), [1, 2], ["shown", "acted"])
    assert rolled.dtypes == list(expected.items())
    found = {
        (row["key"], row["day"].day): (row["shown_last_ts"], row["acted_last_ts"])
        for row in listed(rolled)
    }
    # On the 4th the click of the 2nd has left the window.
    assert found == {
        ("u", 3): (utc(2, 9), utc(2, 8)),
        ("u", 4): (utc(4, 1), None),
        ("v", 4): (utc(4, 3), None),
    }


def test_the_last_moment_is_known_strictly_before_the_impression(spark):
    moment = utc(2, 12)
    impressions = frame(
        spark,
        "entity string, key string, day date, event_ts timestamp, impression_id string",
        ("user", "u", day(2), moment, "i"),
        ("user", "u", day(2), moment.replace(microsecond=1), "j"),
        ("user", "v", day(2), moment, "k"),
        ("user", "w", day(2), moment, "l"),
    )
    events = frame(
        spark,
        "entity string, key string, day date, known_ts timestamp, shown bigint, acted bigint",
        ("user", "u", day(2), utc(2, 11), 1, 0),
        ("user", "u", day(2), utc(2, 10), 1, 1),
        ("user", "u", day(2), moment, 0, 1),
    )
    daily = frame(
        spark,
        "entity string, key string, day date, shown_1d bigint, acted_1d bigint, "
        "acted_last_ts timestamp",
        ("user", "u", day(1), 1, 1, utc(1, 5)),
        ("user", "v", day(1), 0, 2, utc(1, 6)),
        ("user", "w", day(1), 1, 0, None),
    )
    recency = {"acted": ["user"]}
    today = today_counts(impressions, events, list(COUNTS), recency)
    counts = counts_at_impressions(today, daily, {"user": ["user_id"]}, list(COUNTS), [1], recency)
    assert by(counts, "impression_id", "user_acted_last_ts") == {
        "i": utc(2, 10),
        "j": moment,
        "k": utc(1, 6),
        "l": None,
    }


def test_who_was_last_seen_before_the_longest_window_is_forgotten(spark):
    schema = "entity string, key string, day date, shown_1d bigint"
    rows = [("user", "u", day(1), 1), ("user", "u", day(2), 0), ("user", "v", day(2), 1)]
    rolled = rolled_up(frame(spark, schema, *rows), ["shown"], [1, 2], [day(2), day(3)])
    assert sorted((row["key"], row["day"].day) for row in listed(rolled)) == [
        ("u", 2),
        ("v", 2),
        ("v", 3),
    ]


def test_the_longest_window_reaches_exactly_as_many_days_back(spark):
    schema = "entity string, key string, day date, shown_1d bigint"
    rows = [("all", "", day(number), 10**number) for number in range(1, 5)]
    rolled = rolled_up(frame(spark, schema, *rows), ["shown"], [1, 3], [day(4)])
    assert by(rolled, "day", "shown_1d", "shown_3d") == {day(4): (10_000, 11_100)}


def test_counts_hold_what_became_known_strictly_before_the_impression(spark):
    moment = utc(2, 12)
    impressions = frame(
        spark,
        "entity string, key string, day date, event_ts timestamp, impression_id string",
        ("user", "u", day(2), moment, "i"),
        ("user", "u", day(2), moment.replace(microsecond=1), "j"),
        ("user", "w", day(2), moment, "k"),
    )
    events = frame(
        spark,
        "entity string, key string, day date, known_ts timestamp, shown bigint, acted bigint",
        ("user", "u", day(2), utc(2, 11, 59, 59, 999_999), 1, 0),
        ("user", "u", day(2), moment, 0, 1),
        ("user", "v", day(2), utc(2, 1), 1, 1),
        ("all", "u", day(2), utc(2, 1), 1, 1),
        ("user", "u", day(1), utc(2, 1), 1, 1),
    )
    today = today_counts(impressions, events, list(COUNTS))
    assert by(today, "impression_id", "shown_today", "acted_today") == {
        "i": (1, 0),
        "j": (1, 1),
        "k": (0, 0),
    }
    daily = frame(
        spark,
        "entity string, key string, day date, shown_1d bigint, acted_1d bigint",
        ("user", "u", day(1), 10, 20),
        ("user", "u", day(2), 500, 500),
        ("user", "v", day(1), 700, 700),
    )
    counts = counts_at_impressions(today, daily, {"user": ["user_id"]}, list(COUNTS), [1])
    assert by(counts, "impression_id", "user_shown_1d", "user_acted_1d") == {
        "i": (11, 20),
        "j": (11, 21),
        "k": (0, 0),
    }


STATES = "entity_id string, known_ts timestamp, user_city string, user_plan string"


def known(spark, states, *queries):
    """Attributes of (id, user, moment)."""
    rows = frame(spark, "id string, user_id string, at timestamp", *queries)
    found = with_attributes(
        rows, frame(spark, STATES, *states), "user_id", "at", ["user_city", "user_plan"]
    )
    assert found.columns == [*rows.columns, "user_city", "user_plan"]
    return by(found, "id", "user_city", "user_plan")


def test_attributes_are_those_known_strictly_before(spark):
    states = [("u", utc(2), "Rome", None), ("u", utc(4), None, "gold"), ("v", utc(1), "Bonn", "x")]
    assert known(
        spark,
        states,
        ("before", "u", utc(1)),
        ("at once", "u", utc(2)),
        ("after", "u", utc(2, 0, 0, 0, 1)),
        ("later", "u", utc(9)),
        ("stranger", "w", utc(9)),
        ("nobody", None, utc(9)),
    ) == {
        "before": (None, None),
        "at once": (None, None),
        "after": ("Rome", None),
        "later": (None, "gold"),
        "stranger": (None, None),
        "nobody": (None, None),
    }


@pytest.mark.parametrize("order", [1, -1])
def test_states_that_repeat_themselves_do_not_hide_a_change(spark, order):
    daily = [("u", utc(n), city, None) for n, city in enumerate("AAABBA", start=1)]
    queries = [(str(n), "u", utc(n, 12)) for n in range(1, 7)]
    found = known(spark, daily[::order] + daily[:2], *queries)
    assert "".join(found[str(n)][0] for n in range(1, 7)) == "AAABBA"
