"""Lists become events with times of their own, and states are known from the right moment on."""

from datetime import date

from jobs.spark import ingest, verdicts
from tests.jobs.spark.frames import by, micros, utc
from tests.jobs.spark.judging import FIRST, PAST, USERS, log, raw
from validation import tables


def test_lists_become_events_spaced_before_their_last(spark):
    settings = log(feeds__past={**PAST, "sequences": {"seen": "seen", "liked": "liked"}})
    schema = "user string, at timestamp, seen array<int>, liked array<int>"
    rows = [
        ("u", utc(2, 23, 0, 5), [7, None, 8], [7]),
        ("v", utc(2), None, []),
        ("w", None, [9], None),
        (None, utc(2), [9], None),
        ("u", utc(3), [1], None),
    ]
    feed = settings.feeds["past"]
    judged = ingest.judge_sequences(raw(spark, schema, *rows), feed, settings)
    events = ingest.sequence_events(judged, "past", feed)
    assert events.dtypes == list(tables.EVENTS.items())
    names = ("event_type", "item_id", "event_ts", "known_ts", "day", "time_is_synthetic")
    end = (utc(2, 23, 0, 5), date(2024, 3, 3), True)
    assert by(events, "event_id", *names) == {
        "past:seen:u:0": ("seen", "7", utc(2, 22, 59, 45), *end),
        "past:seen:u:2": ("seen", "8", utc(2, 23, 0, 5), *end),
        "past:liked:u:0": ("liked", "7", utc(2, 23, 0, 5), *end),
    }
    assert verdicts.count_verdicts(judged, FIRST) == [
        (FIRST, "unreadable_time", 1),
        (date(2024, 3, 2), "null_user_id", 1),
        (date(2024, 3, 2), "ok", 1),
        (date(2024, 3, 3), "duplicate", 1),
        (date(2024, 3, 3), "ok", 1),
    ]


def states(spark, *rows, folder=None, **feed):
    settings = log(feeds__users={k: v for k, v in {**USERS, **feed}.items() if v is not None})
    of = settings.feeds["users"]
    df = raw(spark, "user string, place string, known timestamp", *rows, folder=folder)
    judged = ingest.judge_attributes(df, of, settings)
    return judged, ingest.attributes(judged, of)


def test_states_are_known_from_their_own_time(spark):
    rows = [("u", "Rome", utc(2)), ("v", None, utc(3)), ("w", "Bonn", None), (None, "Ulm", utc(2))]
    judged, kept = states(spark, *rows)
    assert kept.dtypes == list(tables.attributes(["user_city"]).items())
    assert by(kept, "entity_id", "user_city", "known_ts", "day") == {
        "u": ("Rome", utc(2), FIRST),
        "v": (None, utc(3), FIRST),
    }
    assert by(judged, "place", "_verdict") == {
        "Rome": "ok",
        None: "ok",
        "Bonn": "unreadable_time",
        "Ulm": "null_entity_id",
    }


def test_a_state_in_a_folder_was_not_known_before_its_day(spark):
    rows = [("old", "Rome", utc(1)), ("new", "Bonn", utc(5, 12))]
    _, kept = states(spark, *rows, folder=date(2024, 3, 5), path="users/{day}")
    assert by(kept, "entity_id", "known_ts", "day") == {
        "old": (utc(4, 23), date(2024, 3, 5)),
        "new": (utc(5, 12), date(2024, 3, 5)),
    }


def test_a_state_without_a_time_is_known_when_its_folders_day_is_over(spark):
    _, kept = states(
        spark, ("u", "Rome", None), folder=date(2024, 3, 5), path="users/{day}", known_ts=None
    )
    assert by(kept, "entity_id", "known_ts") == {"u": utc(5, 23)}
    _, kept = states(spark, ("u", "Rome", None), known_ts=None)
    assert micros(by(kept, "entity_id", "known_ts").values()) == [0]
