"""Every kind of row is judged by its first fault, and a kept one has its place in the tables."""

import math
from datetime import UTC, date, datetime, timedelta

import pytest

from jobs.spark import ingest, verdicts
from tests.jobs.samples import raw_contract
from tests.jobs.spark.frames import by, frame, listed, micros, utc
from tests.jobs.spark.judging import FIRST, FOLDERS, SHOWN, log, raw, verdict_by
from validation import tables

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_an_impression_is_judged_by_its_first_fault(spark):
    noon, later = utc(2, 12), utc(2, 13)
    good = ("u", "a", "feed", noon, later)
    rows = {
        "good": good,
        "no user": (None, *good[1:]),
        "blank user": (" ", *good[1:]),
        "no ad": ("u", None, *good[2:]),
        "no surface": ("u", "a", None, *good[3:]),
        "other surface": ("u", "a", "shelf", *good[3:]),
        "no time": ("u", "a", "feed", None, later),
        "never known": ("u", "a", "feed", noon, None),
        "epoch zero": ("u", "a", "feed", EPOCH, later),
        "known at epoch zero": ("u", "a", "feed", noon, EPOCH),
        "epoch zero, in another zone": ("u", "a", "feed", EPOCH - timedelta(hours=9), later),
        "far past": ("u", "a", "feed", utc(1).replace(year=1999), later),
        "far future": ("u", "a", "feed", utc(1).replace(year=2150), utc(1).replace(year=2150)),
        "known before it happened": ("u", "a", "feed", later, noon),
        "late by a day": ("u", "a", "feed", noon, utc(3, 13)),
        "late by two": ("u", "a", "feed", noon, utc(4, 13)),
        "no user, no time": (None, "a", "feed", None, None),
    }
    frames = [raw(spark, SHOWN, *[(key, *row) for key, row in rows.items()], (None, *good))]
    judged = ingest.judge_impressions(frames[0], log(), max_late_days=1)
    assert verdict_by(judged) == {
        "good": "ok",
        "no user": "null_user_id",
        "blank user": "null_user_id",
        "no ad": "null_ad_id",
        "no surface": "null_surface",
        "other surface": "unknown_surface",
        "no time": "unreadable_time",
        "never known": "unreadable_time",
        "epoch zero": "epoch_zero",
        "known at epoch zero": "epoch_zero",
        "epoch zero, in another zone": "epoch_zero",
        "far past": "impossible_time",
        "far future": "impossible_time",
        "known before it happened": "time_in_the_future",
        "late by a day": "ok",
        "late by two": "too_late",
        "no user, no time": "null_user_id",
        None: "null_impression_id",
    }


def test_a_log_may_be_older_than_most(spark):
    rows = [("old", "u", "a", "feed", *[utc(1).replace(year=1996)] * 2)]
    judged = ingest.judge_impressions(raw(spark, SHOWN, *rows), log(earliest_year=1996), 1)
    assert verdict_by(judged) == {"old": "ok"}


PLACES = {"column": "place", "values": {"f": "feed", 2: "search", True: "search"}}


def test_values_are_called_as_the_contract_says_and_others_are_unknown(spark):
    schema = f"{SHOWN}, device string"
    places = ("f", "2", "true", "feed", "F", None, "f", "f")
    devices = ("tv", "tv", "phone", "tv", "tv", "tv", None, "watch")
    rows = [
        (str(n), "u", "a", place, utc(2), utc(2), device)
        for n, (place, device) in enumerate(zip(places, devices, strict=True))
    ]
    settings = log(
        feeds__shown__surface=PLACES,
        feeds__shown__context={
            "position": {"expr": "3"},
            "device": {"column": "device", "values": ["phone", "tv"]},
        },
    )
    judged = ingest.judge_impressions(raw(spark, schema, *rows), settings, 1)
    assert by(judged, "id", "_verdict", "_surface") == {
        "0": ("ok", "feed"),
        "1": ("ok", "search"),
        "2": ("ok", "search"),
        "3": ("unknown_surface", "feed"),
        "4": ("unknown_surface", "F"),
        "5": ("null_surface", None),
        "6": ("ok", "feed"),
        "7": ("unknown_device", "feed"),
    }


def test_types_of_outcomes_and_events_may_be_listed_too(spark):
    settings = log(
        feeds__acts__outcome_type={"column": "what", "values": {"c": "click"}},
        feeds__visits__event_type={"expr": "lower(what)", "values": ["visit"]},
    )
    schema = "id string, shown_id string, user string, item string, place string, what string"
    rows = [(w, "s", "u", "i", "feed", w, utc(2), utc(2)) for w in ("c", "click", "VISIT")]
    frames = raw(spark, f"{schema}, at timestamp, known timestamp", *rows)
    acts = ingest.judge_outcomes(frames, "acts", settings.feeds["acts"], settings)
    assert by(acts, "id", "_verdict", "_outcome_type") == {
        "c": ("ok", "click"),
        "click": ("unknown_outcome_type", "click"),
        "VISIT": ("unknown_outcome_type", "VISIT"),
    }
    visits = ingest.judge_events(frames, "visits", settings.feeds["visits"], settings)
    found = by(visits, "id", "_verdict")
    assert found == {"c": "unknown_event_type", "click": "unknown_event_type", "VISIT": "ok"}


def test_a_number_out_of_its_range_is_impossible(spark):
    rows = [
        (key, "u", "a", "feed", utc(2), utc(2), bid, position)
        for key, bid, position in (
            ("good", 0.0, "3"),
            ("none", None, None),
            ("least", -0.01, "3"),
            ("most", 1.01, "3"),
            ("nan", math.nan, "3"),
            ("place", 0.5, "0"),
        )
    ]
    settings = log(
        feeds__shown__bid={"column": "bid", "min": 0, "max": 1},
        feeds__shown__context={"position": {"column": "position", "min": 1}},
    )
    schema = f"{SHOWN}, bid double, position string"
    judged = ingest.judge_impressions(raw(spark, schema, *rows), settings, 1)
    assert verdict_by(judged) == {
        "good": "ok",
        "none": "ok",
        **dict.fromkeys(("least", "most", "nan"), "impossible_bid"),
        "place": "impossible_position",
    }


def test_a_row_in_a_folder_is_known_from_the_start_of_its_day_to_its_end(spark):
    # 2 March in Berlin is 23:00 on the 1st to 23:00 on the 2nd.
    schema = SHOWN.replace("known timestamp", "known string")
    rows = [
        ("earlier", "u", "a", "feed", utc(1, 12), None),
        ("within", "u", "a", "feed", utc(2, 12), None),
        ("last", "u", "a", "feed", utc(2, 22, 59, 59, 999_999), None),
        ("later", "u", "a", "feed", utc(2, 23), None),
    ]
    judged = ingest.judge_impressions(
        raw(spark, schema, *rows, folder=date(2024, 3, 2)),
        log(**FOLDERS, feeds__shown__known_ts=None),
        max_late_days=1,
    )
    assert by(judged, "id", "_verdict", "known_ts", "_day", "_event_day") == {
        "earlier": ("ok", utc(1, 23), date(2024, 3, 2), date(2024, 3, 1)),
        "within": ("ok", utc(2, 12), date(2024, 3, 2), date(2024, 3, 2)),
        "last": ("ok", utc(2, 22, 59, 59, 999_999), date(2024, 3, 2), date(2024, 3, 2)),
        "later": ("known_after_arrival", utc(2, 23), date(2024, 3, 2), date(2024, 3, 3)),
    }


def test_an_outcome_finds_its_impression_whatever_the_raw_columns_are_called(spark):
    """A raw column may have a canonical name: ids are made of what it held."""
    schema = "user string, event_ts string, day int, verdict string, known_ts string, ad string"
    rows = [("u", "1709380800000", 7, "yes", "1709384400000", "a")]
    names = {
        "id": ["user", "event_ts", "day"],
        "event_ts": {"column": "event_ts", "unit": "ms"},
        "known_ts": {"column": "known_ts", "unit": "ms"},
        "surface": {"expr": "'feed'"},
        "context": {"position": {"column": "day"}},
    }
    settings = log(**{f"feeds__shown__{name}": value for name, value in names.items()})
    judged = ingest.judge_impressions(raw(spark, schema, *rows), settings, 1)
    shown = ingest.impressions(judged, settings)
    assert by(shown, "user_id", "event_ts", "known_ts", "position", "day") == {
        "u": (utc(2, 12), utc(2, 13), 7.0, date(2024, 3, 2))
    }
    act = ("7", "u", "1709380800000", "click", utc(2, 12, 5), utc(2, 12, 6))
    acts = "slot string, who string, ms string, what string, at timestamp, known timestamp"
    settings = log(feeds__acts__id=["slot"], feeds__acts__impression_id=["who", "ms", "slot"])
    happened = ingest.outcomes(
        ingest.judge_outcomes(raw(spark, acts, act), "acts", settings.feeds["acts"], settings)
    )
    assert ingest.outcome_events(happened, shown).count() == 1


@pytest.mark.parametrize("feed", ["shown", "acts", "visits", "past", "users"])
def test_without_consent_a_row_is_excluded_and_not_kept(spark, feed):
    settings = log(
        **{f"feeds__{feed}__consent": "agreed"} if feed in raw_contract()["feeds"] else {},
        feeds__past={**PAST, "consent": "agreed"},
        feeds__users={**USERS, "consent": "agreed"},
    )
    schema = "id string, user string, at timestamp, known timestamp, agreed boolean, what string"
    schema += ", ad string, place string, shown_id string, item string, seen array<string>"
    rows = [
        (key, key, utc(2), utc(2), agreed, "click", "a", "feed", "s", "i", ["j"])
        for key, agreed in (("yes", True), ("no", False), ("unknown", None))
    ]
    of, df = settings.feeds[feed], raw(spark, schema, *rows)
    judged = {
        "shown": lambda: ingest.judge_impressions(df, settings, 1),
        "acts": lambda: ingest.judge_outcomes(df, feed, of, settings),
        "visits": lambda: ingest.judge_events(df, feed, of, settings),
        "past": lambda: ingest.judge_sequences(df, of, settings),
        "users": lambda: ingest.judge_attributes(df, of, settings),
    }[feed]()
    assert verdict_by(judged) == {"yes": "ok", "no": "no_consent", "unknown": "no_consent"}
    assert verdicts.quarantine(judged, feed, FIRST).count() == 0


def test_impressions_have_the_columns_of_their_table(spark):
    settings = log(
        feeds__shown__bid={"expr": "0.5"},
        feeds__shown__context={"position": {"expr": "3"}, "device": {"expr": "7"}},
    )
    rows = [("x", "u", "a", "feed", utc(1, 23, 30), utc(2, 23)), (None,) * 6]
    judged = ingest.judge_impressions(raw(spark, SHOWN, *rows), settings, 1)
    shown = ingest.impressions(judged, settings)
    assert shown.dtypes == list(
        tables.impressions({"position": "double", "device": "string"}).items()
    )
    assert listed(shown) == [
        {
            "impression_id": "x",
            "user_id": "u",
            "ad_id": "a",
            "surface": "feed",
            "event_ts": utc(1, 23, 30),
            "known_ts": utc(2, 23),
            "bid": 0.5,
            "propensity": None,
            "position": 3.0,
            "device": "7",
            "event_day": date(2024, 3, 2),
            "day": date(2024, 3, 3),
        }
    ]


def test_an_outcome_is_judged_by_its_first_fault(spark):
    schema = "id string, shown_id string, what string, at timestamp, known timestamp"
    rows = [
        ("good", "s", "click", utc(2), utc(3)),
        ("other type", "s", "yawn", utc(2), utc(3)),
        ("no type", "s", None, utc(2), utc(3)),
        ("no impression", None, "click", utc(2), utc(3)),
        ("no time", "s", "click", None, utc(3)),
        (None, "s", "click", utc(2), utc(3)),
    ]
    settings = log()
    judged = ingest.judge_outcomes(
        raw(spark, schema, *rows), "acts", settings.feeds["acts"], settings
    )
    assert verdict_by(judged) == {
        "good": "ok",
        "other type": "unknown_outcome_type",
        "no type": "null_outcome_type",
        "no impression": "null_impression_id",
        "no time": "unreadable_time",
        None: "null_outcome_id",
    }
    happened = ingest.outcomes(judged)
    assert happened.dtypes == list(tables.OUTCOMES.items())
    assert listed(happened) == [
        {
            "outcome_id": "acts:good",
            "impression_id": "s",
            "outcome_type": "click",
            "value": None,
            "event_ts": utc(2),
            "known_ts": utc(3),
            "day": date(2024, 3, 3),
        }
    ]


def test_an_event_is_judged_by_its_first_fault(spark):
    schema = "id string, user string, item string, place string, what string, at timestamp"
    rows = [
        ("good", "u", "i", "feed", "visit", utc(2)),
        ("any surface", "u", "i", "shelf", "yawn", utc(2)),
        ("no item", "u", None, "feed", "visit", utc(2)),
        ("no type", "u", "i", "feed", None, utc(2)),
        ("no time", "u", "i", "feed", "visit", None),
        (None, "u", "i", "feed", "visit", utc(2)),
    ]
    settings = log(feeds__visits__known_ts=None, feeds__visits__value={"expr": "2"})
    judged = ingest.judge_events(
        raw(spark, schema, *rows), "visits", settings.feeds["visits"], settings
    )
    assert verdict_by(judged) == {
        "good": "ok",
        "any surface": "ok",
        "no item": "null_item_id",
        "no type": "null_event_type",
        "no time": "unreadable_time",
        None: "null_event_id",
    }
    events = ingest.organic_events(judged)
    assert events.dtypes == list(tables.EVENTS.items())
    assert by(events, "event_id", "item_id", "value", "known_ts", "time_is_synthetic") == {
        "visits:good": ("i", 2.0, utc(2), False),
        "visits:any surface": ("i", 2.0, utc(2), False),
    }


INLINE = {
    "click": {"when": "clicked"},
    "view": {
        "when": "seconds > 10",
        "event_ts": {"expr": "event_ts + make_dt_interval(0, 0, 0, seconds)"},
        "known_ts": {"expr": "event_ts + make_dt_interval(0, 0, 0, seconds)"},
        "value": {"column": "seconds"},
    },
}


def inline(spark, *rows, folder=None, **changes):
    """Outcomes on rows of (id, shown at, known at, clicked, seconds)."""
    schema = "id string, at timestamp, known timestamp, clicked boolean, seconds double"
    given = {
        "feeds__shown__outcomes": INLINE,
        "feeds__shown__user_id": {"expr": "'u'"},
        "feeds__shown__ad_id": {"expr": "'a'"},
        "feeds__shown__surface": {"expr": "'feed'"},
    }
    settings = log(**{**given, **changes})
    judged = ingest.judge_impressions(raw(spark, schema, *rows, folder=folder), settings, 1)
    return ingest.inline_outcomes(judged, settings), ingest.impressions(judged, settings)


def test_flags_on_a_row_become_outcomes_of_their_own_time(spark):
    happened, shown = inline(
        spark,
        ("both", utc(2, 22, 59, 50), utc(2, 22, 59, 55), True, 30.0),
        ("none", utc(2), utc(2), None, None),
        ("untimed", utc(2), utc(2), True, None),
    )
    assert dict(happened.dtypes) == tables.OUTCOMES
    assert by(happened, "outcome_id", "event_ts", "known_ts", "value", "day") == {
        # The view ends after midnight in Berlin and is known only then; the click with its row.
        "both:click": (utc(2, 22, 59, 50), utc(2, 22, 59, 55), None, date(2024, 3, 2)),
        "both:view": (utc(2, 23, 0, 20), utc(2, 23, 0, 20), 30.0, date(2024, 3, 3)),
        "untimed:click": (utc(2), utc(2), None, date(2024, 3, 2)),
    }
    assert shown.count() == 3


def test_a_flag_without_a_time_takes_the_impressions(spark):
    view = {**INLINE["view"], "when": "clicked"}
    happened, _ = inline(
        spark,
        ("x", utc(2), utc(2, 1), True, None),
        feeds__shown__outcomes={"view": view},
    )
    assert by(happened, "outcome_id", "event_ts", "known_ts") == {"x:view": (utc(2), utc(2, 1))}


def test_a_flag_in_a_folder_was_known_by_the_end_of_its_day(spark):
    happened, _ = inline(
        spark,
        ("x", utc(2, 22, 59, 50), utc(2, 22, 59, 55), True, 30.0),
        folder=date(2024, 3, 2),
        **FOLDERS,
    )
    assert by(happened, "outcome_type", "known_ts", "day") == {
        "click": (utc(2, 22, 59, 55), date(2024, 3, 2)),
        "view": (utc(2, 22, 59, 59, 999_999), date(2024, 3, 2)),
    }


def test_impressions_and_outcomes_are_events_too(spark):
    settings = log()
    rows = [("s", "u", "a", "feed", utc(2, 1), utc(2, 2))]
    shown = ingest.impressions(
        ingest.judge_impressions(raw(spark, SHOWN, *rows), settings, 1), settings
    )
    happened = frame(
        spark,
        ", ".join(f"{n} {k}" for n, k in tables.OUTCOMES.items()),
        ("acts:1", "s", "click", None, utc(2, 3), utc(2, 3), date(2024, 3, 2)),
        # Known before its impression was: it is the user's only from then on.
        ("acts:2", "s", "buy", 9.0, utc(2, 1), utc(2, 1, 30), date(2024, 3, 1)),
        ("acts:3", "lost", "buy", 9.0, utc(2, 3), utc(2, 3), date(2024, 3, 2)),
    )
    own, theirs = ingest.impression_events(shown), ingest.outcome_events(happened, shown)
    assert own.dtypes == theirs.dtypes == list(tables.EVENTS.items())
    names = ("event_type", "user_id", "item_id", "surface", "event_ts", "known_ts", "value", "day")
    place = ("u", "a", "feed")
    assert by(own.union(theirs), "event_id", *names) == {
        "s": ("impression", *place, utc(2, 1), utc(2, 2), None, date(2024, 3, 2)),
        "acts:1": ("click", *place, utc(2, 3), utc(2, 3), None, date(2024, 3, 2)),
        "acts:2": ("buy", *place, utc(2, 1), utc(2, 2), 9.0, date(2024, 3, 2)),
    }
    assert set(by(own.union(theirs), "event_id", "impression_id").values()) == {"s"}


def test_a_flag_whose_value_cannot_be_rejects_its_row(spark):
    view = {**INLINE["view"], "value": {"column": "seconds", "max": 3600}}
    rows = [
        ("good", utc(2), utc(2), True, 30.0),
        ("bad", utc(2), utc(2), True, 3601.0),
        ("no view", utc(2), utc(2), True, 5.0),
    ]
    happened, shown = inline(spark, *rows, feeds__shown__outcomes={**INLINE, "view": view})
    assert sorted(by(shown, "impression_id", "surface")) == ["good", "no view"]
    assert sorted(by(happened, "outcome_id", "value")) == [
        "good:click",
        "good:view",
        "no view:click",
    ]


PAST = {
    "kind": "sequences",
    "path": "past.parquet",
    "user_id": "user",
    "last_ts": "at",
    "spacing": "10s",
    "surface": "old",
    "sequences": {"seen": "seen"},
}


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


USERS = {
    "kind": "attributes",
    "entity": "user",
    "path": "users.parquet",
    "key": "user",
    "known_ts": "known",
    "attributes": {"city": "place"},
}


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
