"""The peer's loader and ours are given the same rows, and labels that can be learnt."""

from itertools import product

import numpy as np
import torch

from tests.bench.bench_peer_training import (
    SEGMENT,
    floor_of,
    learner_of,
    peer_weights,
    reader_of,
    steps,
)
from tests.bench.peer_rows import Setup, draw, write_rows


def make_setup(folder):
    setup = Setup(
        str(folder),
        "train",
        rows_per_table=30,
        num_steps=4,
        batch_size=16,
        num_fields=4,
        width=4,
        deep_hidden=(8,),
    )
    write_rows(setup, "train", *draw(setup, 64, 0))
    return setup


def test_both_sides_read_the_same_rows_in_the_same_order(tmp_path):
    reader = reader_of(make_setup(tmp_path), "train")
    pieces = list(reader.pieces(SEGMENT, rank=0, world=1))
    theirs = np.load(tmp_path / "train.npz")
    ids = torch.cat([piece.batch.categorical for piece in pieces])
    assert torch.equal(ids, torch.from_numpy(np.stack([theirs[f"f{i}"] for i in range(4)], 1)))
    assert np.array_equal(torch.cat([piece.labels for piece in pieces])[:, 0], theirs["label"])
    assert ids.min() >= 1
    assert ids.max() < 30


def test_labels_of_two_draws_follow_one_truth(tmp_path):
    setup = Setup(str(tmp_path), "train", rows_per_table=3, num_steps=1, num_fields=2)
    rates = []
    for stream in (0, 1):
        ids, labels = draw(setup, 40_000, stream)
        pairs = product((1, 2), repeat=2)
        rates.append([labels[(ids == pair).all(axis=1)].mean() for pair in pairs])
    np.testing.assert_allclose(rates[0], rates[1], atol=0.02)
    assert np.ptp(rates[0]) > 0.1


def test_the_floor_learns_all_but_tables(tmp_path):
    setup = make_setup(tmp_path)
    reader = reader_of(setup, "train")
    ours, floor = learner_of(setup, reader), floor_of(setup, reader)
    assert set(floor.average.averages) == set(ours.average.averages)
    before = {name: weight.clone() for name, weight in floor.ranker.named_parameters()}
    steps(floor, reader.pieces(SEGMENT, rank=0, world=1), 4)
    moved = dict(floor.ranker.named_parameters())
    assert set(moved) == set(ours.average.averages)
    assert all(not torch.equal(before[name], weight) for name, weight in moved.items())


def test_every_weight_has_a_name_at_the_peer(tmp_path):
    setup = make_setup(tmp_path)
    ranker = learner_of(setup, reader_of(setup, "train")).ranker
    weights = peer_weights(ranker)
    assert sum(w.size for w in weights.values()) == sum(p.numel() for p in ranker.parameters())
