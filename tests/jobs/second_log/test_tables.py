"""The data half on a log of another shape, from its contract alone, checked by hand."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from jobs import pack_examples
from tests.jobs.second_log.log import DAYS, epoch, table


def test_every_row_is_taken_or_told(whole):
    config, summary = whole
    assert summary.details["verdicts"] == {
        "ok": 9 + 7 + 3,
        "no_consent": 1,
        "duplicate": 2,
        "unknown_surface": 1,
        "bad_epoch": 1,
    }
    assert summary.details["outcomes_without_impression"] == 0
    assert summary.rows == {
        "impressions": 9,
        "outcomes": 7,
        "events": 19,
        "attributes_readers": 6,
        "quarantine": 2,
    }
    rejected = table(config, "quarantine", "reason", "row", "day")
    assert {reason: day for reason, (_, day) in rejected.items()} == {
        "bad_epoch": DAYS[1],
        "unknown_surface": DAYS[1],
    }
    assert json.loads(rejected["bad_epoch"][0])["epoch"] == "soon"
    assert json.loads(rejected["unknown_surface"][0])["slot"] == "shelf"


def test_rows_lie_under_the_day_on_which_they_arrived(whole):
    config, _ = whole
    shown = table(config, "impressions", "impression_id", "day", "event_day", "bid", "slot_height")
    assert shown == {
        "1": (DAYS[0], DAYS[0], 0.5, 100.0),
        "2": (DAYS[0], DAYS[0], None, 50.0),
        "3": (DAYS[0], DAYS[0], None, None),
        "5": (DAYS[1], DAYS[1], None, 100.0),
        "6": (DAYS[1], DAYS[1], None, 100.0),
        "9": (DAYS[1], DAYS[0], None, 100.0),
        "10": (DAYS[2], DAYS[1], None, 100.0),
        "11": (DAYS[2], DAYS[2], None, 100.0),
        "12": (DAYS[2], DAYS[2], None, 100.0),
    }
    acts = table(config, "events", "event_id", "day", "user_id")
    # The click of view 10 is known with the view, which came a day after it.
    assert acts["results:5"] == (DAYS[2], "ann")
    assert acts["results:3"] == (DAYS[1], "ann")


def test_labels_count_what_was_known_when_they_matured(whole):
    config, _ = whole
    assert table(config, "labels", "impression_id", "label_click", "label_subscribe") == {
        "1": (1, 1),
        "2": (0, 0),
        "3": (1, 0),
        "5": (1, 0),
        "6": (0, 1),
        "9": (0, 0),
        "10": (1, 0),
        "11": (0, None),
        "12": (0, None),
    }


def test_features_are_what_was_known_before_the_impression(whole):
    config, _ = whole
    names = ("hour", "domain", "vertical", "user_plan", "history_end")
    found = table(config, "examples", "impression_id", *names)
    assert found["1"] == ("10", "web", "front", None, 1)
    assert found["3"] == ("23", "web", "front", None, 4)
    # A plan is known when the day that lists it is over.
    assert found["5"] == ("0", "web", "front", "free", 7)
    assert found["6"] == ("9", "app", "home", "free", 2)
    assert found["11"] == ("8", "web", "front", "gold", 11)
    names = [
        f"{entity}_{what}_{days}d"
        for entity, what in (
            ("user", "impression"),
            ("user", "click"),
            ("user", "read"),
            ("all", "impression"),
            ("plan", "read"),
        )
        for days in (1, 2)
    ]
    counts = table(config, "examples", "impression_id", *names)
    assert counts["1"] == (0, 0, 0, 0, 1, 1, 0, 0, 1, 1)
    assert counts["5"] == (2, 2, 2, 2, 2, 2, 4, 4, 1, 1)
    assert counts["11"] == (2, 4, 3, 4, 1, 2, 4, 7, 0, 0)


def test_moments_of_last_events_are_those_known_before_the_impression(whole):
    config, _ = whole
    names = [f"{of}_last_ts" for of in ("user_click", "ad_click", "user_read", "plan_read")]
    found = table(config, "examples", "impression_id", *names)

    def at(*moment):
        return datetime.fromtimestamp(epoch(*moment), UTC)

    assert found["1"] == (None, None, at(1, 9), at(1, 9))
    # Her click at 23:58 lies in the next day's file, and so is known from midnight on.
    assert found["5"] == (at(2, 0), at(1, 10, 5), at(2, 0, 5), at(2, 0, 5))
    # The click of view 10 is known with its view, on the 3rd; the gold plan's nobody has read.
    assert found["11"] == (at(3, 0), at(3, 0), at(2, 0, 5), None)


def test_packed_arrays_hold_the_same_in_order_of_time(whole):
    config, _ = whole
    packed = pack_examples.open_packed(config)
    ids = packed.impression_ids().to_pylist()
    assert ids == ["1", "2", "9", "3", "5", "10", "6", "11", "12"]
    assert [None if math.isnan(y) else int(y) for y in packed.labels[:, 1]] == [
        1,
        0,
        0,
        0,
        0,
        0,
        1,
        None,
        None,
    ]
    row = ids.index("5")
    spec = packed.spec
    dense = dict(zip(spec.dense, packed.dense[row].tolist(), strict=True))
    assert dense["slot_height"] == pytest.approx(math.log(101))
    assert dense["log_user_click_1d"] == pytest.approx(math.log(3))
    # One click in four impressions of everybody, so (2 + 10 p) / (2 + 10) of ann's.
    clicks, shown = 2, 4
    prior = (clicks + 0.5) / (shown + 1)
    rate = (2 + 10 * prior) / (2 + 10)
    assert dense["rate_user_click_1d"] == pytest.approx(math.log(rate / (1 - rate)), rel=1e-6)
    assert math.isnan(packed.dense[ids.index("3"), spec.dense.index("slot_height")])
    history = packed.batch([row], max_events=3).history
    assert history is not None
    # The last three before: view 3, its click, an article read.
    ages_us = history.row_us - history.event_us
    assert (ages_us / 60e6).tolist() == [20, 12, 5]
    assert spec.table_rows["user_id"] == 3  # ann, bob and the unknown
