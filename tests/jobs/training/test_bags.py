"""Bags in training: packed jagged, told as known, learnt, and scored by an older vocabulary."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.contract import LogContract
from jobs.training import trainee
from jobs.training.bags import PackedBag
from jobs.training.scoring import predict
from jobs.training.segments import Segment
from jobs.vocabulary import OUT_OF_VOCABULARY, Vocabulary
from model.config import BagConfig
from tests.jobs.training import samples

ALL = [Segment(None, samples.END)]
TAGS = ["t0", "t1", "t2", "t3"]


def contract():
    raw = samples.contract().model_dump(mode="json")
    raw["feeds"]["impressions"]["context"]["tags"] = {"column": "tags"}
    raw["features"]["bags"] = ["tags"]
    return LogContract.model_validate(raw)


@pytest.fixture(scope="module")
def world():
    made = samples.world(200)
    draw = np.random.default_rng(5)
    lists = [
        None if row % 7 == 0 else draw.choice([*TAGS, "unknown"], draw.integers(0, 4)).tolist()
        for row in range(200)
    ]
    column = pa.array(lists, pa.list_(pa.string()))
    return replace(made, examples=made.examples.append_column("tags", column))


def vocabulary(world, num_tags=4):
    return Vocabulary(0, {**world.vocabulary().values, "tags": pa.array(TAGS[:num_tags])})


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return samples.config(tmp_path_factory.mktemp("home"), contract=contract())


@pytest.fixture(scope="module")
def reader(config, world):
    return samples.reader(config, world, vocabulary(world))


def test_a_batch_holds_the_values_of_its_rows(reader, world):
    rows = np.array([3, 0, 199, 3, 20])
    (bag,) = reader.batch(rows).bags
    lists = world.examples.sort_by("event_ts")["tags"].to_pylist()
    expected = [
        [TAGS.index(tag) + 1 if tag in TAGS else OUT_OF_VOCABULARY for tag in lists[row] or []]
        for row in rows
    ]
    assert bag.offsets.diff().tolist() == [len(values) for values in expected]
    assert bag.values.tolist() == [value for values in expected for value in values]


def test_rows_without_any_value_make_an_empty_bag():
    bag = PackedBag(np.array([4, 5], np.int32), np.array([0, 0, 2, 2])).take(np.array([0, 2]))
    assert bag.values.tolist() == []
    assert bag.offsets.tolist() == [0, 0, 0]


def test_an_evicted_value_is_told_as_unknown_where_it_is_learnt(reader):
    packed = reader.packed
    held, packed.spec = packed.spec, replace(packed.spec, evicted={"tags": [2]})
    try:
        learnt = [piece.batch.bags[0] for piece in reader.pieces(ALL[0], 0, 1)]
    finally:
        packed.spec = held
    values = torch.cat([bag.values for bag in learnt])
    assert 2 not in values
    assert {1, 3, 4} <= set(values.tolist())
    # To score with, it is still there.
    assert 2 in reader.batch(np.arange(200)).bags[0].values


def test_a_model_reads_and_learns_its_bags(config, reader):
    card, learner = samples.teacher(config, reader, ALL)
    assert card.ranker_config.bags == (BagConfig(name="tags", table="tags"),)
    table = learner.ranker.tables["table_tags"].weight
    before = table.detach().clone()
    trainee.train(card, learner, reader, ALL)
    changed = (table != before).any(dim=1)
    assert changed.all()


def test_a_model_with_an_earlier_vocabulary_reads_newer_values_as_unknown(
    tmp_path, config, reader, world
):
    older = samples.config(tmp_path, contract=contract())
    few = samples.reader(older, world, vocabulary(world, num_tags=2))
    _, learner = samples.teacher(older, few, ALL)
    rows = np.arange(60)
    learner.model.eval()
    same = predict(learner.ranker, few, rows)
    newer = predict(learner.ranker, reader, rows)
    np.testing.assert_allclose(newer, same, atol=1e-6)


def test_a_contract_without_bags_gives_none(tmp_path):
    plain = samples.reader(samples.config(tmp_path), samples.world(50))
    assert plain.batch(np.arange(3)).bags == ()
    assert plain.packed.spec.bags == []
