"""A stored user vector is a feature; who has none reads what was learnt for that."""

import torch
from torch.nn.functional import layer_norm
from torch.utils.flop_counter import FlopCounterMode

from model.representations import user_vector
from model.representations.config import UserVectorConfig
from model.representations.user_vector import UserVectorTokens

CONFIG = UserVectorConfig(dim=5, num_tokens=2)
NAN = float("nan")


def module(**changes):
    torch.manual_seed(0)
    return UserVectorTokens(CONFIG.model_copy(update=changes), width=4)


def test_tokens_are_a_linear_map_of_the_normalised_vector():
    make = module()
    vectors = torch.randn(3, 5)
    for row, made in zip(vectors, make(vectors), strict=True):
        flat = make.projection.weight @ layer_norm(row, (5,)) + make.projection.bias
        torch.testing.assert_close(made, flat.unflatten(0, (2, 4)))


def test_a_missing_vector_reads_the_learned_tokens_and_spoils_no_gradient():
    make = module()
    vectors = torch.randn(3, 5)
    vectors[1] = NAN
    made = make(vectors)
    assert torch.equal(made[1], make.default)
    made.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in make.parameters())


def test_dropout_acts_in_training_only():
    vectors = torch.ones(1, 5).cumsum(1)
    make = module(dropout=0.6)
    assert not torch.equal(make(vectors), make(vectors))
    assert torch.equal(make.eval()(vectors), module()(vectors))


def test_parameters_and_flops_equal_the_closed_forms():
    make = module()
    assert user_vector.num_parameters(CONFIG, 4) == sum(p.numel() for p in make.parameters())
    with FlopCounterMode(display=False) as counter:
        make(torch.randn(6, 5))
    assert counter.get_total_flops() == 6 * user_vector.flops(CONFIG, 4)
