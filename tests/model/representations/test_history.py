"""Earlier representations against the loop over rows, and what a row may not see."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model.representations import history
from model.representations.config import RepresentationHistoryConfig
from model.representations.history import RepresentationHistory
from model.representations.stored import StoredRepresentations
from tests.reference import model_representations as reference

WIDTH, NUM_TOKENS = 4, 3


def config(pooling):
    return RepresentationHistoryConfig(
        dim=5, max_length=4, pooling=pooling, hidden=(6,), num_tokens=2
    )


def module(pooling):
    torch.manual_seed(0)
    return RepresentationHistory(config(pooling), WIDTH, NUM_TOKENS)


def stored(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    number = sum(lengths)
    return StoredRepresentations(
        torch.rand(number, 5, generator=generator) * 2 - 1,
        torch.randint(0, 10**13, (number,), generator=generator),
        torch.tensor([0, *lengths]).cumsum(0),
    )


def tokens(num_rows):
    return torch.randn(num_rows, NUM_TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pooling", ["mean", "din"])
@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_tokens_equal_the_loop_over_rows(pooling, lengths):
    pool, read, own = module(pooling), stored(lengths), tokens(len(lengths))
    unit = None if pool.interest is None else pool.interest.unit.mlp
    weights = pool.state_dict()
    for b, made in enumerate(pool(own, read)):
        start, end = read.offsets[b : b + 2].tolist()
        ages = read.age_us[start:end].tolist()
        expected = reference.pooled(read.values[start:end], ages, weights, unit, own[b])
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "din"])
def test_no_row_reads_those_of_another(pooling):
    pool, read, own = module(pooling), stored((2, 3, 1)), tokens(3)
    changed = read.values.clone()
    changed[2:5] = torch.nan
    clean, dirty = pool(own, read), pool(own, dataclasses.replace(read, values=changed))
    assert torch.equal(dirty[[0, 2]], clean[[0, 2]])
    assert dirty[1].isnan().all()


@pytest.mark.parametrize("pooling", ["mean", "din"])
def test_a_row_without_any_reads_learned_tokens_and_every_weight_has_a_gradient(pooling):
    pool = module(pooling)
    made = pool(tokens(2), stored((0, 0)))
    assert torch.equal(made, pool.default.expand(2, -1, -1))
    made.sum().backward()
    gradients = [p.grad for p in pool.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_the_age_counts():
    pool, read = module("mean"), stored((2,))
    older = dataclasses.replace(read, age_us=read.age_us * 20)
    assert (pool(tokens(1), older) - pool(tokens(1), read)).abs().max() > 1e-3


def test_only_din_asks_the_row_itself():
    for pooling, depends in (("mean", False), ("din", True)):
        pool, read = module(pooling), stored((2,))
        same = torch.equal(pool(tokens(1), read), pool(tokens(1) + 1.0, read))
        assert same != depends, pooling


@pytest.mark.parametrize("pooling", ["mean", "din"])
def test_parameters_and_flops_equal_the_closed_forms(pooling):
    pool = module(pooling)
    expected = history.num_parameters(config(pooling), WIDTH, NUM_TOKENS)
    assert expected == sum(p.numel() for p in pool.parameters())
    with FlopCounterMode(display=False) as counter:
        pool(tokens(3), stored((3, 3, 3)))
    assert counter.get_total_flops() == 3 * history.flops(config(pooling), WIDTH, NUM_TOKENS, 3)


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [0, 3, 2, 3], []])
def test_offsets_that_are_no_partition_are_refused(offsets):
    with pytest.raises(ValueError, match=r"representations.offsets: offsets must start at 0"):
        dataclasses.replace(stored((3,)), offsets=torch.tensor(offsets, dtype=torch.int64))


def test_ages_of_others_are_refused():
    with pytest.raises(ValueError, match="an age for each of the 3 representations; found 2"):
        dataclasses.replace(stored((3,)), age_us=torch.zeros(2, dtype=torch.int64))
