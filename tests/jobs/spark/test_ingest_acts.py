"""Outcomes and events are judged by their first fault; both, and impressions, become events."""

from datetime import date

from jobs.spark import ingest
from tests.jobs.spark.frames import by, frame, listed, utc
from tests.jobs.spark.judging import FOLDERS, SHOWN, log, raw, verdict_by
from validation import tables


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
