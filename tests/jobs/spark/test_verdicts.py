"""Every raw row gets one verdict: of copies one is kept, and what is rejected is kept aside."""

import json
from datetime import date

from jobs.digests import rows_digest
from jobs.spark import ingest, verdicts
from tests.jobs.spark.frames import by, frame, listed, utc
from tests.jobs.spark.judging import FIRST, FOLDERS, SHOWN, log, raw, verdict_by


def test_an_unreadable_known_time_is_not_replaced_by_the_folders(spark):
    rows = [("x", "u", "a", "feed", utc(1, 12), None)]
    frames = raw(spark, SHOWN, *rows, folder=date(2024, 3, 2))
    judged = ingest.judge_impressions(frames, log(**FOLDERS), max_late_days=1)
    assert verdict_by(judged) == {"x": "unreadable_time"}


def test_of_several_copies_the_one_known_first_is_kept(spark):
    rows = [
        ("once", "u", "a", "feed", utc(2, 1), utc(2, 2)),
        ("copied", "late", "a", "feed", utc(2, 1), utc(2, 3)),
        ("copied", "first", "a", "feed", utc(2, 1), utc(2, 2)),
        ("copied", None, "a", "feed", utc(2, 1), utc(2, 1)),
    ]
    judged = ingest.judge_impressions(raw(spark, SHOWN, *rows), log(), 1)
    found = [(row["id"], row["user"], row["_verdict"]) for row in listed(judged, "id", "known_ts")]
    assert found == [
        ("copied", None, "null_user_id"),
        ("copied", "first", "ok"),
        ("copied", "late", "duplicate"),
        ("once", "u", "ok"),
    ]


def test_exact_copies_leave_one_row_wherever_they_lie(spark):
    rows = [("x", "u", "a", "feed", utc(2, 1), utc(2, 2))] * 3
    kept = [
        ingest.impressions(ingest.judge_impressions(df, log(), 1), log())
        for df in (raw(spark, SHOWN, *rows), raw(spark, SHOWN, *rows).repartition(3))
    ]
    assert kept[0].count() == 1
    assert rows_digest(kept[0].toArrow()) == rows_digest(kept[1].toArrow())


def test_which_of_two_rows_known_at_once_is_kept_does_not_depend_on_their_order(spark):
    rows = [("x", user, "a", "feed", utc(2, 1), utc(2, 2)) for user in "abcdef"]
    found = set()
    for order in (rows, rows[::-1], rows[3:] + rows[:3]):
        judged = ingest.judge_impressions(raw(spark, SHOWN, *order), log(), 1)
        found |= {row["user"] for row in listed(judged) if row["_verdict"] == "ok"}
    assert len(found) == 1


def test_a_copy_of_a_row_that_arrived_on_an_earlier_day_is_a_duplicate(spark):
    rows = [(key, "u", "a", "feed", utc(2, 1), utc(2, 2)) for key in ("held", "new")]
    rows.append(("bad", None, "a", "feed", utc(2, 1), utc(2, 2)))
    judged = ingest.judge_impressions(raw(spark, SHOWN, *rows), log(), 1)
    held = frame(spark, "impression_id string", ("held",), ("bad",))
    again = verdicts.without_known(judged, "_impression_id", held)
    assert verdict_by(again) == {"held": "duplicate", "new": "ok", "bad": "null_user_id"}


def test_an_id_of_several_columns_needs_one_of_them(spark):
    rows = [
        ("1", "u", "a", "feed", utc(2, 1), utc(2, 2)),
        (None, "v", "a", "feed", utc(2, 1), utc(2, 2)),
        (None, None, "a", "feed", utc(2, 1), utc(2, 2)),
    ]
    settings = log(feeds__shown__id=["id", "user"], feeds__shown__user_id={"expr": "ad"})
    judged = ingest.judge_impressions(raw(spark, SHOWN, *rows), settings, 1)
    assert by(judged, "user", "_verdict") == {"u": "ok", "v": "ok", None: "null_impression_id"}
    ids = by(judged, "user", "_impression_id")
    assert (len(ids["u"]), len(ids["v"]), ids["u"] == ids["v"]) == (32, 32, False)


def test_a_rejected_row_is_kept_as_it_was(spark):
    schema = "id string, user string, ad string, place string, event_ts string, known timestamp"
    rows = [("x", "u", None, "feed", "soon", None), ("y", "u", "a", "feed", "2024-03-02", utc(3))]
    settings = log(feeds__shown__event_ts={"column": "event_ts", "unit": "text"})
    judged = ingest.judge_impressions(raw(spark, schema, *rows), settings, 1)
    (rejected,) = listed(verdicts.quarantine(judged, "shown", FIRST))
    assert json.loads(rejected.pop("row")) == {
        "id": "x",
        "user": "u",
        "place": "feed",
        "event_ts": "soon",
    }
    assert rejected == {
        "feed": "shown",
        "reason": "null_ad_id",
        "source_file": "file",
        "day": FIRST,
    }


def test_a_rejected_row_lies_under_its_day_or_the_logs_first_where_it_has_none(spark):
    rows = [
        ("1970", "u", "a", "feed", utc(1).replace(year=1970), utc(1).replace(year=1970)),
        ("never", "u", "a", "feed", None, None),
        ("nobody", None, "a", "feed", utc(3), utc(4)),
    ]
    one_file = ingest.judge_impressions(raw(spark, SHOWN, *rows), log(), 1)
    folder = raw(spark, SHOWN, *rows, folder=date(2024, 3, 6))
    by_day = ingest.judge_impressions(folder, log(**FOLDERS), 9)
    filed = [
        by(verdicts.quarantine(judged, "shown", FIRST), "reason", "day")
        for judged in (one_file, by_day)
    ]
    reasons = ("impossible_time", "unreadable_time", "null_user_id")
    assert filed == [
        dict(zip(reasons, (FIRST, FIRST, date(2024, 3, 4)), strict=True)),
        dict.fromkeys(reasons, date(2024, 3, 6)),
    ]
    assert verdicts.count_verdicts(one_file, FIRST) == [
        (FIRST, "impossible_time", 1),
        (FIRST, "unreadable_time", 1),
        (date(2024, 3, 4), "null_user_id", 1),
    ]


def test_a_value_that_does_not_fit_its_type_is_a_fault(spark):
    rows = [("x", "u", "a", "feed", utc(2), utc(2))]
    judged = ingest.judge_impressions(raw(spark, SHOWN, *rows, bad="price"), log(), 1)
    assert verdict_by(judged) == {"x": "bad_price"}
