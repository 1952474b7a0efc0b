"""The feed-forward layer of each domain: whose rows it sees, and that it is absent unless asked."""

import pytest
import torch

from model import domain_ffn
from model.domain_config import DomainFFNConfig
from model.domain_ffn import DomainFFN
from model.interaction.config import LogisticConfig
from model.ranker import Ranker
from tests.model.samples import make_batch, moved, ranker_config

DOMAIN = torch.tensor([1, 0, 1, 1, 0])


def config(untied=True):
    return ranker_config(domain_ffn=DomainFFNConfig(hidden=5, untied=untied))


def make_layer(untied=True):
    """A layer that is no longer silent, and tokens."""
    torch.manual_seed(0)
    layer = DomainFFN(config(untied))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer, torch.randn(5, 7, 8)


@pytest.mark.parametrize("untied", [True, False])
def test_output_equals_the_equations_row_by_row_and_token_by_token(untied):
    module, tokens = make_layer(untied)
    expected = torch.empty(5, 7, 8)
    for b in range(5):
        first, _, second = module.layers[DOMAIN[b] if untied else 0]
        for i in range(7):
            x = tokens[b, i]
            normed = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            normed = normed * module.norm.weight + module.norm.bias
            hidden = torch.relu(first.weight @ normed + first.bias)
            expected[b, i] = x + second.weight @ hidden + second.bias
    torch.testing.assert_close(module(tokens, DOMAIN), expected)


def test_rows_of_one_domain_move_no_layer_of_another():
    module, tokens = make_layer()
    module(tokens, torch.ones_like(DOMAIN)).square().sum().backward()
    assert not any(name.startswith("layers.0") for name in moved(module))
    assert sum(name.startswith("layers.1") for name in moved(module)) == 4


def test_a_fresh_layer_leaves_the_ranker_bit_equal():
    plain, fresh = Ranker(ranker_config(), seed=3), Ranker(config(), seed=3)
    batch = make_batch(ranker_config(), (3, 0, 7))
    assert torch.equal(plain(batch).logits, fresh(batch).logits)
    weights = fresh.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in plain.state_dict().items())
    assert ranker_config().domain_ffn is None


def test_tied_and_untied_layers_cost_the_same_flops():
    assert domain_ffn.flops(config(untied=True)) == domain_ffn.flops(config(untied=False))
    assert domain_ffn.num_parameters(config(untied=False)) < domain_ffn.num_parameters(config())


def test_a_linear_ranker_has_no_such_layer():
    with pytest.raises(ValueError, match=r"linear.*domain_ffn set"):
        ranker_config(
            domain_ffn=DomainFFNConfig(hidden=5),
            interaction=LogisticConfig(),
            history=None,
            head_hidden=(),
            dense_hidden=None,
            tables=ranker_config().tables[:2],
        )
