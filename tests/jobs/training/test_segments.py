"""Segments cut one pass at day boundaries, up to the gate window and never into it."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest

from jobs.training import segments as segments_module
from jobs.training.segments import Segment, gate_segment, training_segments
from tests.jobs.training import samples


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return samples.packed(samples.config(tmp_path_factory.mktemp("home")), samples.world(400))


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(segments_module, "MIN_FIRST_ROWS", 1)


def ends(found):
    return [segment.end for segment in found]


def test_ends_are_the_starts_of_days_and_of_the_gate_window(packed):
    found = training_segments(samples.plan(), packed, samples.ZONE)
    assert ends(found) == [*samples.days(1, 2, 3), samples.GATE_START]


def test_segments_follow_each_other_from_the_beginning(packed):
    found = training_segments(samples.plan(), packed, samples.ZONE)
    assert found[0].start is None
    assert all(one.end == two.start for one, two in pairwise(found))


def test_the_gate_window_follows_the_last_segment(packed):
    found = training_segments(samples.plan(), packed, samples.ZONE)
    gate = gate_segment(samples.plan())
    assert gate == Segment(found[-1].end, samples.END)
    learnt = packed.matured(None, found[-1].end)
    assert not (learnt & packed.matured(gate.start, gate.end)).any()


@pytest.mark.parametrize("hours", [1, 8, 16, 17, 23, 24])
def test_the_last_day_is_cut_whatever_the_gate_window(packed, hours):
    # Early in a Shanghai day it is the day before in UTC.
    gate_start = samples.END - timedelta(hours=hours)
    found = training_segments(samples.plan(gate_start=gate_start), packed, samples.ZONE)
    days = samples.days(1, 2, 3)
    assert ends(found) == [*(d for d in days if d < gate_start), gate_start]


def test_a_warm_start_begins_where_its_parent_stopped(packed):
    (begin,) = samples.days(2)
    plan = samples.plan(bootstrap=False, trained_from=begin, parent=1, champion=1)
    found = training_segments(plan, packed, samples.ZONE)
    assert found == [
        Segment(begin, *samples.days(3)),
        Segment(*samples.days(3), samples.GATE_START),
    ]


def test_a_parent_may_have_stopped_within_a_day(packed):
    begin, noon = samples.days(2, 2.5)
    plan = samples.plan(bootstrap=False, trained_from=noon, parent=1, champion=1)
    found = training_segments(plan, packed, samples.ZONE)
    assert found[0] == Segment(noon, *samples.days(3))
    assert begin not in ends(found)


def test_leading_small_segments_are_joined(packed, monkeypatch):
    by_day = [packed.matured(None, end).any(axis=1).sum() for end in samples.days(1, 2)]
    monkeypatch.setattr(segments_module, "MIN_FIRST_ROWS", int(by_day[0]) + 1)
    found = training_segments(samples.plan(), packed, samples.ZONE)
    assert ends(found) == [*samples.days(2, 3), samples.GATE_START]
    assert found[0].start is None


def test_too_few_rows_are_one_segment(packed, monkeypatch):
    monkeypatch.setattr(segments_module, "MIN_FIRST_ROWS", 10**6)
    found = training_segments(samples.plan(), packed, samples.ZONE)
    assert found == [Segment(None, samples.GATE_START)]


def test_a_warm_start_joins_nothing(packed, monkeypatch):
    monkeypatch.setattr(segments_module, "MIN_FIRST_ROWS", 10**6)
    plan = samples.plan(bootstrap=False, trained_from=samples.days(1)[0], parent=1, champion=1)
    assert len(training_segments(plan, packed, samples.ZONE)) == 3


def test_segments_take_every_label_up_to_the_gate_window_once(packed):
    found = training_segments(samples.plan(), packed, samples.ZONE)
    times = sum(packed.matured(s.start, s.end).astype(int) for s in found)
    assert np.array_equal(times == 1, packed.matured(None, samples.GATE_START))
    assert times.max() == 1
