"""Foretelling in training: what is asked, that workers add up, and what a step learns of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.training import trainee
from jobs.training.loop import Progress
from jobs.training.segments import Segment
from jobs.training_settings import LongSequence, NextEvent
from jobs.vocabulary import OUT_OF_VOCABULARY
from model.losses import task_loss
from tests.jobs.training import samples

ALL = [Segment(None, samples.END)]
UPSTREAM = LongSequence(num_stages=1, ffn_hidden=8)
SETTINGS = samples.training(
    network=samples.network(upstream=UPSTREAM), next_event=NextEvent(weight=0.5, num_negatives=5)
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return samples.config(tmp_path_factory.mktemp("home"), teacher=SETTINGS)


@pytest.fixture(scope="module")
def reader(config):
    return samples.reader(config, samples.world(300))


def newest_items(reader, rows):
    """Item of the newest event of each row, out of the batch that the model reads."""
    history = reader.batch(rows).history
    ends = zip(history.start.tolist(), history.end.tolist(), strict=True)
    return [int(history.categorical[end - 1, 0]) if end > start else 0 for start, end in ends]


def test_a_piece_asks_for_the_newest_event_that_each_row_knows(reader):
    pieces = list(reader.pieces(ALL[0], 0, 1))
    for piece in pieces:
        events = piece.batch.next_events
        expected = newest_items(reader, piece.rows)
        assert events.target.tolist() == expected
        known = [item for item in expected if item != OUT_OF_VOCABULARY]
        assert piece.num_next_events.item() == len(known)
        assert len(events.negatives) == 5
        drawn = zip(events.negatives.tolist(), events.negative_log_share.tolist(), strict=True)
        asked = zip(events.target.tolist(), events.target_log_share.tolist(), strict=True)
        for item, log_share in [*drawn, *(pair for pair in asked if pair[0])]:
            assert math.exp(log_share) == pytest.approx(known.count(item) / len(known))
    assert any(0 in piece.batch.next_events.target for piece in pieces)


def test_values_are_drawn_by_their_shares(reader):
    rows = reader.rows(ALL[0])[0]
    often = replace(
        reader, batch_size=len(rows), next_event=NextEvent(weight=1, num_negatives=9000)
    )
    (piece,) = often.pieces(ALL[0], 0, 1)
    events = piece.batch.next_events
    values, counts = torch.unique(events.negatives, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        share = events.negative_log_share[events.negatives == value][0].exp().item()
        assert count.item() / 9000 == pytest.approx(share, abs=5 * math.sqrt(share / 9000))


def test_an_evicted_value_is_neither_foretold_nor_drawn(config, reader):
    packed = reader.packed
    rows = reader.rows(ALL[0])[0]
    most = int(np.bincount([i for i in newest_items(reader, rows) if i]).argmax())
    spec = replace(packed.spec, evicted={"ad_id": [most]})
    held = packed.spec
    try:
        packed.spec = spec
        pieces = list(reader.pieces(ALL[0], 0, 1))
    finally:
        packed.spec = held
    for piece in pieces:
        events = piece.batch.next_events
        assert most not in torch.cat([events.target, events.negatives])


@pytest.mark.parametrize("world", [2, 3])
def test_workers_with_parts_of_a_batch_add_up_to_one_worker(config, reader, world):
    _, learner = samples.teacher(config, reader, ALL)
    model = learner.model.eval()

    def loss(piece):
        counts = piece.batch.next_events.target != OUT_OF_VOCABULARY
        errors = model(piece.batch).next_event_errors[counts]
        return errors.sum().item() / piece.num_next_events.item()

    (whole, *_), *parts = (
        list(reader.pieces(ALL[0], rank, workers))
        for rank, workers in [(0, 1), *((rank, world) for rank in range(world))]
    )
    shares = [loss(part[0]) for part in parts]
    assert min(shares) > 0
    assert sum(shares) == pytest.approx(loss(whole), rel=1e-5)


def test_a_worker_without_rows_foretells_nothing(reader):
    few = replace(reader, batch_size=2)
    pieces = list(few.pieces(ALL[0], rank=2, world=3))
    assert all(piece.batch.next_events.target.tolist() == [OUT_OF_VOCABULARY] for piece in pieces)
    # Though its row may know an event, and other workers foretell some.
    assert any(newest_items(reader, piece.rows) != [OUT_OF_VOCABULARY] for piece in pieces)
    assert any(piece.num_next_events.item() > 0 for piece in pieces)


def test_a_step_adds_the_weighted_loss_and_tells_it(config, reader):
    _, learner = samples.teacher(config, reader, ALL)
    piece = next(reader.pieces(ALL[0], 0, 1))
    with torch.no_grad():
        output = learner.model.train()(piece.batch)
    counts = piece.batch.next_events.target != OUT_OF_VOCABULARY
    foretold = output.next_event_errors[counts].mean().item()
    labels = task_loss(output.logits, piece.labels, piece.mask, piece.num_labels).item()
    found = []
    finite = learner._check_finite
    learner._check_finite = lambda what, value, piece: (
        found.append(value.item()),
        finite(what, value, piece),
    )
    head = learner.ranker.history.next_event.projection.weight
    before = head.detach().clone()
    learner.learn(piece, world=1)
    assert found[0] == pytest.approx(labels + 0.5 * foretold, rel=1e-5)
    assert not torch.equal(head, before)
    assert learner.progress.next_event_loss() == pytest.approx(foretold, rel=1e-5)


def test_the_loss_is_told_of_every_segment(config, reader):
    card, learner = samples.teacher(config, reader, ALL)
    segments = samples.segments(*samples.days(1, 2, 3, 4))
    _, results = trainee.train(card, learner, reader, segments)
    told = [result.to_dict()["next_event_loss"] for result in results]
    # Of one value among at most six, before anything is learnt and while it is.
    assert len(told) == 4
    assert all(0.0 < loss < 2 * math.log(6) for loss in told)


def test_without_it_nothing_is_asked_or_told(tmp_path):
    config = samples.config(tmp_path)
    reader = samples.reader(config, samples.world(100))
    card, learner = samples.teacher(config, reader, ALL)
    assert next(reader.pieces(ALL[0], 0, 1)).batch.next_events is None
    _, (result,) = trainee.train(card, learner, reader, ALL)
    assert "next_event_loss" not in result.to_dict()


def test_sums_of_a_checkpoint_from_before_are_read():
    progress = Progress.of([[2.0], [1.0], [0.5], [0.9]])
    assert progress.stacked().tolist() == [[2.0], [1.0], [0.5], [0.9], [0.0], [0.0]]
    assert math.isnan(progress.next_event_loss())


def test_foretelling_without_a_long_sequence_is_refused():
    with pytest.raises(ValueError, match=r"next_event: .* found no network.upstream"):
        samples.training(next_event=NextEvent(weight=0.1))
