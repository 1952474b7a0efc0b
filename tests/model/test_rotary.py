"""ROTE: what it keeps, and what a score may depend on."""

import torch

from model.attention.rotary import FREQUENCY_BASE, log_time, rotate
from tests.reference import model_attention as reference


def heads(num_tokens, head_dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, 2, head_dim, generator=generator, dtype=torch.float64)


def test_rotation_equals_complex_numbers_pair_by_pair():
    x, tau = heads(3), torch.tensor([0.0, 0.7, 12.5], dtype=torch.float64)
    for token, t, turned in zip(x, tau.tolist(), rotate(x, tau), strict=True):
        for head, actual in zip(token.tolist(), turned.tolist(), strict=True):
            expected = reference.rotate(head, t, FREQUENCY_BASE)
            torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected))


def test_norms_stay_as_they_are_and_no_time_turns_nothing():
    x, tau = heads(5), torch.linspace(0.0, 13.0, 5, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, tau).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x, torch.zeros(5, dtype=torch.float64)), x)


def test_scores_depend_on_differences_of_log_time_alone():
    query, key = heads(4, seed=1), heads(4, seed=2)
    tau = torch.tensor([0.3, 2.0, 5.0, 11.0], dtype=torch.float64)

    def scores(shift):
        turned = rotate(query, tau + shift), rotate(key, tau.flip(0) + shift)
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(scores(4.2), scores(0.0))
    assert (scores(0.0) - (query * key).sum(-1)).abs().max() > 0.1


def test_log_time_is_exact_to_the_second_and_shifts_with_nothing():
    ages = torch.tensor([-5, 0, 60_000_000, 86_400_000_000, 31_536_000_000_000])
    expected = [reference.log_time(age) for age in ages.tolist()]
    torch.testing.assert_close(log_time(ages), torch.tensor(expected, dtype=torch.float64))
    now = 1_790_000_000_000_000
    assert torch.equal(log_time((now + 7) - (now + 7 - ages)), log_time(ages))
