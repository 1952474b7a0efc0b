"""Batches: every label is dealt out once, whatever the segments, the workers and the batch."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.training.inputs import InputSpec, Packed
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from tests.jobs.training import samples

HOUR = timedelta(hours=1)
EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return samples.reader(samples.config(tmp_path_factory.mktemp("home")), samples.world(300))


class Labels:
    """What a reader needs of packed arrays, with rows that hold nothing but their number."""

    def __init__(self, mature_hours, missing):
        num_rows = len(mature_hours)
        self.mature_us = (mature_hours * 3_600_000_000).astype(np.int64) + to_us(EPOCH)
        self.labels = np.where(missing, np.nan, np.arange(num_rows)[:, None] % 2).astype(np.float32)
        self.domain = np.zeros(num_rows, np.int8)
        self.user = np.zeros(num_rows, np.int64)
        self.matured = Packed.matured.__get__(self)
        self.spec = InputSpec([], [], [], [], [], {}, None)

    def batch(self, rows, max_events, *, whole, content):
        return samples.bare_batch(len(rows))


def to_us(moment):
    return round(moment.timestamp() * 1e6)


def bare_reader(packed, batch_size, keep=None):
    return Reader(
        packed=packed,
        tasks=list(range(packed.labels.shape[1])),
        keep=keep,
        domains=np.zeros(1, np.int64),
        batch_size=batch_size,
        max_events=0,
    )


def taken(reader, segment, world, skip=0):
    """(row, task) of every label, and the pieces of every global batch."""
    ranks = [list(reader.pieces(segment, rank, world, skip)) for rank in range(world)]
    labels = [
        (int(row), task)
        for pieces in ranks
        for piece in pieces
        for row, mask in zip(piece.rows, piece.mask.numpy(), strict=True)
        for task in np.flatnonzero(mask)
    ]
    return labels, list(zip(*ranks, strict=True))


@st.composite
def logs(draw):
    num_rows, num_tasks = draw(st.integers(0, 40)), draw(st.integers(1, 3))
    shown = sorted(draw(st.lists(st.integers(0, 60), min_size=num_rows, max_size=num_rows)))
    windows = draw(st.lists(st.integers(1, 30), min_size=num_tasks, max_size=num_tasks))
    missing = draw(
        st.lists(st.booleans(), min_size=num_rows * num_tasks, max_size=num_rows * num_tasks)
    )
    mature = np.array(shown, float).reshape(-1, 1) + np.array(windows, float)
    cuts = sorted(draw(st.sets(st.integers(1, 95), min_size=1, max_size=5)))
    return Labels(mature, np.array(missing, bool).reshape(num_rows, num_tasks)), cuts


@settings(deadline=None, max_examples=200)
@given(log=logs(), world=st.integers(1, 3), batch_size=st.integers(1, 9))
def test_every_matured_label_is_dealt_out_exactly_once(log, world, batch_size):
    packed, cuts = log
    ends = [EPOCH + cut * HOUR for cut in cuts]
    reader = bare_reader(packed, batch_size)
    dealt = []
    for segment in samples.segments(*ends):
        labels, batches = taken(reader, segment, world)
        dealt += labels
        assert len(batches) == reader.num_steps(segment)
        for pieces in batches:
            # All ranks divide by the same number, which is that of the global batch.
            total = sum(piece.mask.sum(0) for piece in pieces)
            assert all(torch.equal(piece.num_labels, total.float()) for piece in pieces)
    matured = np.argwhere(packed.matured(None, ends[-1])).tolist()
    assert sorted(map(list, dealt)) == matured


@settings(deadline=None, max_examples=60)
@given(log=logs(), world=st.integers(1, 3), skip=st.integers(0, 4))
def test_a_resumed_pass_deals_out_the_rest(log, world, skip):
    packed, cuts = log
    segment, reader = Segment(None, EPOCH + cuts[-1] * HOUR), bare_reader(packed, 4)
    _, batches = taken(reader, segment, world)
    _, rest = taken(reader, segment, world, skip)
    assert [[p.rows.tolist() for p in pieces] for pieces in rest] == [
        [p.rows.tolist() for p in pieces] for pieces in batches[skip:]
    ]


def test_workers_together_take_the_rows_of_one(reader):
    segment = Segment(None, samples.END)
    alone = [piece.rows.tolist() for piece in reader.pieces(segment, 0, 1)]
    _, batches = taken(reader, segment, 3)
    assert [sorted(r for p in pieces for r in p.rows.tolist()) for pieces in batches] == alone


def test_a_batch_smaller_than_the_world_gives_the_rest_a_row_without_labels():
    reader = bare_reader(Labels(np.array([[1.0], [2.0]]), np.zeros((2, 1), bool)), batch_size=8)
    labels, ((one, two, three),) = taken(reader, Segment(None, EPOCH + 9 * HOUR), 3)
    assert sorted(labels) == [(0, 0), (1, 0)]
    assert three.rows.tolist() == [0]
    assert not three.mask.any()
    assert one.num_labels.tolist() == two.num_labels.tolist() == three.num_labels.tolist() == [2]


def test_a_segment_without_rows_has_no_batch(reader):
    segment = Segment(samples.END, samples.END + HOUR)
    assert reader.num_steps(segment) == 0
    assert list(reader.pieces(segment, 0, 2)) == []


def test_a_row_comes_again_for_a_task_that_matures_later(reader):
    day, next_day = samples.segments(*samples.days(1, 2))
    first, later = (set(reader.rows(segment)[0].tolist()) for segment in (day, next_day))
    again = first & later
    assert again
    rows, mask = reader.rows(day)
    assert all(mask[rows == row].tolist() == [[True, False]] for row in again)


def test_only_kept_rows_are_seen(reader):
    keep = reader.packed.domain == 1
    mine = replace(reader, keep=keep)
    rows, _ = mine.rows(Segment(None, samples.END))
    assert len(rows) > 0
    assert keep[rows].all()


def test_tasks_are_the_models_own_and_in_its_order(reader):
    turned = replace(reader, tasks=[1, 0])
    segment = Segment(None, samples.END)
    piece = next(turned.pieces(segment, 0, 1))
    torch.testing.assert_close(
        piece.labels,
        torch.from_numpy(reader.packed.labels[piece.rows][:, ::-1].copy()),
        equal_nan=True,
    )


def test_the_domain_is_the_models_index(reader):
    other = replace(reader, domains=np.array([1, 0]))
    rows = np.arange(50)
    assert torch.equal(other.batch(rows).domain, 1 - reader.batch(rows).domain)


def test_scores_that_count_are_those_of_the_labels_that_count(reader):
    segment = Segment(None, samples.days(2)[0])
    teacher = np.full((reader.packed.num_rows, 2), 0.5, np.float32)
    teacher[::3, 0] = np.nan
    taught = replace(reader, teacher=teacher)
    for piece in taught.pieces(segment, 0, 1):
        usable = piece.mask.numpy() & ~np.isnan(teacher[piece.rows])
        assert piece.num_scores.tolist() == usable.sum(0).tolist()
        assert np.array_equal(piece.teacher.numpy(), teacher[piece.rows], equal_nan=True)
