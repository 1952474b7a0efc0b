"""Token mixing and per-token networks against loops."""

import torch
from torch.nn.functional import layer_norm

from model.interaction.config import RankMixerConfig
from model.interaction.rankmixer import PerTokenLinear, RankMixer, RankMixerBlock, mix_tokens
from tests.reference import model_interaction as reference


def test_mixing_equals_the_loop_over_parts():
    tokens = torch.randn(2, 3, 6)
    assert torch.equal(mix_tokens(tokens), reference.mix_tokens(tokens))


def test_mixing_of_two_literal_tokens():
    tokens = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    expected = torch.tensor([[[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]])
    assert torch.equal(mix_tokens(tokens), expected)


def test_mixing_twice_gives_the_tokens_back():
    tokens = torch.randn(2, 4, 8)
    assert torch.equal(mix_tokens(mix_tokens(tokens)), tokens)


def test_every_token_has_a_map_of_its_own():
    torch.manual_seed(0)
    layer, tokens = PerTokenLinear(3, 4, 2), torch.randn(5, 3, 4)
    torch.nn.init.normal_(layer.bias)
    expected = torch.stack([tokens[:, t] @ layer.weight[t] + layer.bias[t] for t in range(3)], 1)
    torch.testing.assert_close(layer(tokens), expected)


def test_block_equals_the_paper_step_by_step():
    torch.manual_seed(0)
    block, tokens = RankMixerBlock(2, 4, 3), torch.randn(3, 2, 4)
    mixed = layer_norm(reference.mix_tokens(tokens) + tokens, (4,))
    expected = torch.empty(3, 2, 4)
    for b in range(3):
        for t in range(2):
            hidden = mixed[b, t] @ block.expand.weight[t] + block.expand.bias[t, 0]
            hidden = torch.tensor([reference.gelu(value) for value in hidden.tolist()])
            fed = hidden @ block.contract.weight[t] + block.contract.bias[t, 0]
            expected[b, t] = layer_norm(fed + mixed[b, t], (4,))
    torch.testing.assert_close(block(tokens), expected)


def test_features_are_cut_into_equal_parts_in_their_order():
    torch.manual_seed(0)
    stack = RankMixer(RankMixerConfig(num_layers=1, num_mixed_tokens=2, expansion=1), 3, 4)
    tokens = torch.randn(5, 3, 4)
    flat = tokens.flatten(1)
    parts = torch.stack([flat[:, :6], flat[:, 6:]], dim=1)
    torch.testing.assert_close(stack(tokens), stack.blocks(stack.tokenise(parts)))
