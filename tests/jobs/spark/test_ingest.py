"""Every impression is judged by its first fault, and a kept one has its place in the table."""

import math
from datetime import UTC, date, datetime, timedelta

import pytest

from jobs.spark import ingest, verdicts
from tests.jobs.samples import raw_contract
from tests.jobs.spark.frames import by, listed, utc
from tests.jobs.spark.judging import FIRST, FOLDERS, PAST, SHOWN, USERS, log, raw, verdict_by
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
