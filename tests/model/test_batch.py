"""Batches that no ranker can read are refused where they are made."""

import dataclasses

import pytest
import torch

from model.batch import Batch, check_batch
from tests.model.samples import (
    config_without_history,
    history_config,
    make_batch,
    ranker_config,
    rich_config,
    stored_config,
)


def change_history(batch, **changes):
    return dataclasses.replace(batch, history=dataclasses.replace(batch.history, **changes))


@pytest.mark.parametrize("offsets", [[1, 5], [0, 3], [0, 3, 2, 5], [], [0, 6, 5]])
def test_offsets_that_are_no_partition_of_the_events_are_refused(offsets):
    batch = make_batch(ranker_config(), (2, 3))
    with pytest.raises(ValueError, match="offsets must start at 0"):
        change_history(batch, offsets=torch.tensor(offsets, dtype=torch.int64))


@pytest.mark.parametrize(
    ("start", "end"), [([0, 1], [2, 5]), ([0, 3], [2, 6]), ([1, 3], [0, 5]), ([-1, 2], [2, 5])]
)
def test_windows_that_leave_their_segment_are_refused(start, end):
    batch = make_batch(ranker_config(), (2, 3))
    with pytest.raises(ValueError, match="window must lie in its segment"):
        change_history(batch, start=torch.tensor(start), end=torch.tensor(end))


def test_segments_that_the_batch_lacks_are_refused():
    batch = make_batch(ranker_config(), (2, 3))
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\); found 0 to 2"):
        change_history(batch, segment=torch.tensor([0, 2]))


def test_rows_of_one_segment_read_their_own_windows():
    batch = make_batch(ranker_config(), (5, 0, 3), rows=((2, 2), (0, 4), (1, 0), (0, 5)))
    read = batch.history.row_events(max_events=3)
    assert read.row.tolist() == [0, 0, 1, 1, 1, 3, 3, 3]
    assert read.event.tolist() == [5, 6, 1, 2, 3, 2, 3, 4]
    assert read.offsets.tolist() == [0, 2, 5, 5, 8]


def test_history_of_other_rows_is_refused():
    batch = make_batch(ranker_config(), (2, 3))
    other = make_batch(ranker_config(), (2, 3, 1)).history
    with pytest.raises(ValueError, match=r"same number of rows.*'domain': 2, 'history': 3"):
        Batch(batch.categorical, batch.dense, batch.domain, other)


def test_batch_without_rows_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        make_batch(config_without_history(), ())


def test_bags_of_other_rows_are_refused():
    batch = make_batch(rich_config(), (2, 3))
    other = make_batch(rich_config(), (2, 3, 1)).bags
    with pytest.raises(ValueError, match=r"same number of rows.*'bags\[0\]': 3"):
        dataclasses.replace(batch, bags=other)


def test_map_reaches_every_tensor():
    stored = make_batch(stored_config(), (2, 0, 3))
    batch = dataclasses.replace(
        make_batch(rich_config(), (2, 0, 3)),
        user_vector=stored.user_vector,
        representations=stored.representations,
    )
    seen = []
    copy = batch.map(lambda tensor: seen.append(tensor.data_ptr()) or tensor.clone())
    history = batch.history
    tensors = [batch.categorical, batch.dense, batch.domain]
    tensors += [history.categorical, history.dense, history.event_us, history.offsets]
    tensors += [history.segment, history.start, history.end, history.row_us]
    tensors += history.content
    tensors += [x for bag in batch.bags for x in (bag.values, bag.offsets)] + [*batch.content]
    earlier = batch.representations
    tensors += [batch.user_vector, earlier.values, earlier.age_us, earlier.offsets]
    assert seen == [tensor.data_ptr() for tensor in tensors]
    torch.testing.assert_close(copy.history.offsets, torch.tensor([0, 2, 2, 5]))


def test_readable_batches_pass():
    check_batch(make_batch(ranker_config(), (2, 0, 16)), ranker_config())
    check_batch(make_batch(ranker_config(), (0, 0)), ranker_config())
    check_batch(make_batch(rich_config(), (2, 0, 16)), rich_config())
    check_batch(make_batch(stored_config(), (2, 0, 16)), stored_config())
    check_batch(make_batch(config_without_history(), (0, 0)), config_without_history())


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (
            lambda b: dataclasses.replace(b, categorical=torch.tensor([[0, 0], [19, 11]])),
            r"categorical\[1\]: indexes must lie in \[0, 11\)",
        ),
        (
            lambda b: dataclasses.replace(b, categorical=b.categorical - 20),
            r"categorical\[0\]: indexes must lie in \[0, 20\)",
        ),
        (
            lambda b: dataclasses.replace(b, categorical=b.categorical[:, :1]),
            "reads 2 columns; found 1",
        ),
        (lambda b: dataclasses.replace(b, dense=b.dense[:, :2]), "reads 3 columns; found 2"),
        (
            lambda b: dataclasses.replace(b, domain=b.domain + 2),
            r"domain\[0\]: indexes must lie in \[0, 2\)",
        ),
        (lambda b: dataclasses.replace(b, history=None), "found none"),
        (
            lambda b: change_history(b, categorical=b.history.categorical + torch.tensor([0, 4])),
            r"history.categorical\[1\]: indexes must lie in \[0, 4\)",
        ),
        (lambda b: change_history(b, dense=b.history.dense[:, :1]), "reads 2 columns; found 1"),
    ],
)
def test_batch_that_does_not_fit_the_ranker_is_refused(mutate, message):
    batch = make_batch(ranker_config(), (2, 3))
    with pytest.raises(ValueError, match=message):
        check_batch(mutate(batch), ranker_config())


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda b: dataclasses.replace(b, bags=()), r"bags: .*'seen', 'tags'.; found 0"),
        (
            lambda b: dataclasses.replace(b, bags=(b.bags[0], shifted(b.bags[1], 11))),
            r"bags.tags\[0\]: indexes must lie in \[0, 11\)",
        ),
        (lambda b: dataclasses.replace(b, content=b.content[:1]), "content: .* found 1"),
        (
            lambda b: dataclasses.replace(b, content=(b.content[1], b.content[0])),
            "content.text: the ranker reads 6 columns; found 2",
        ),
        (lambda b: change_history(b, content=()), "history.content: .*'title'.; found 0"),
    ],
)
def test_bags_and_content_that_do_not_fit_the_ranker_are_refused(mutate, message):
    batch = make_batch(rich_config(), (2, 3))
    with pytest.raises(ValueError, match=message):
        check_batch(mutate(batch), rich_config())


def shifted(bag, by):
    return dataclasses.replace(bag, values=bag.values + by)


def test_history_longer_than_the_ranker_reads_is_refused():
    config = ranker_config(history=history_config(max_events=4))
    with pytest.raises(ValueError, match="at most 4 events; found 5"):
        check_batch(make_batch(ranker_config(), (4, 5)), config)


STORED = stored_config()


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"user_vector": None}, STORED, "batch.user_vector: .* found none"),
        ({"representations": None}, STORED, "batch.representations: .* found none"),
        ({}, ranker_config(), "batch.user_vector: .* found one"),
        ({"user_vector": torch.zeros(6, 4)}, STORED, "reads 5 columns; found 4"),
        (
            {},
            stored_config(
                representation_history=STORED.representation_history.model_copy(
                    update={"max_length": 3}
                )
            ),
            "reads at most 3; found 4; give each row its latest",
        ),
        (
            {},
            stored_config(
                representation_history=STORED.representation_history.model_copy(update={"dim": 9})
            ),
            "batch.representations: the ranker reads 9 columns; found 6",
        ),
    ],
)
def test_stored_vectors_that_do_not_fit_the_ranker_are_refused(changes, config, message):
    batch = dataclasses.replace(make_batch(STORED, (0, 1, 2, 3, 4, 5)), **changes)
    with pytest.raises(ValueError, match=message):
        check_batch(batch, config)


def test_representations_of_other_rows_are_refused():
    batch, other = make_batch(STORED, (2, 3)), make_batch(STORED, (2, 3, 1))
    with pytest.raises(ValueError, match=r"same number of rows.*'representations': 3"):
        dataclasses.replace(batch, representations=other.representations)
