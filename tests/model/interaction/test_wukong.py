"""The Wukong stack against its formulas, its closed forms and its invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from model.interaction import wukong
from model.interaction.config import CrossLayerConfig
from model.interaction.cross_layer import CrossLayerAttention
from model.interaction.wukong import (
    FactorizationMachineBlock,
    LinearCompressBlock,
    Wukong,
    WukongLayer,
    factorization_machine,
)
from model.ranker import Ranker
from tests.model.samples import make_batch, ranker_config, wukong_config
from tests.reference import model_interaction as reference


@settings(deadline=None, max_examples=25)
@given(
    num_rows=st.integers(1, 3),
    num_tokens=st.integers(1, 5),
    width=st.integers(1, 4),
    rank=st.integers(1, 3),
    per_row=st.booleans(),
)
def test_factorization_machine_equals_the_sum_over_all_pairs(
    num_rows, num_tokens, width, rank, per_row
):
    generator = torch.Generator().manual_seed(num_tokens)
    tokens = torch.randn(num_rows, num_tokens, width, generator=generator)
    shape = (num_rows, num_tokens, rank) if per_row else (num_tokens, rank)
    projection = torch.randn(shape, generator=generator)
    expected = reference.factorization_machine(tokens, projection)
    torch.testing.assert_close(
        factorization_machine(tokens, projection), expected, atol=1e-5, rtol=1e-5
    )


def test_factorization_machine_of_two_literal_tokens():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    # X Xᵀ = [[5, 1], [1, 10]]; Y picks the second column.
    interactions = factorization_machine(tokens, torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(interactions, torch.tensor([[[1.0], [10.0]]]))


@pytest.mark.parametrize("attentive", [True, False])
@pytest.mark.parametrize("num_tokens", [6, 5])  # 5 = n_F + n_L: the residual is the identity
@pytest.mark.parametrize("mlp_hidden", [(), (7,), (7, 11)])
def test_parameters_equal_the_closed_form(attentive, num_tokens, mlp_hidden):
    config = wukong_config(attentive=attentive, mlp_hidden=mlp_hidden, num_layers=3)
    stack = Wukong(config, num_tokens, width=8)
    counted = sum(parameter.numel() for parameter in stack.parameters())
    assert wukong.num_parameters(config, num_tokens, width=8) == counted


def test_parameters_of_one_small_layer_counted_by_hand():
    config = wukong_config(num_layers=1, num_fm_tokens=1, num_lcb_tokens=1, rank=1, mlp_hidden=())
    # n 3, d 2. W_Y 3, MLP 2→3: 9; LN 6, MLP 3→2: 8; W_L 3; W_R 6; LN 4.
    assert wukong.num_parameters(config, num_tokens=3, width=2) == 39


@pytest.mark.parametrize("attentive", [True, False])
@pytest.mark.parametrize("num_tokens", [6, 5])
def test_flops_equal_the_closed_form(attentive, num_tokens):
    config = wukong_config(attentive=attentive, num_layers=3)
    stack = Wukong(config, num_tokens, width=8)
    with FlopCounterMode(display=False) as counter:
        stack(torch.randn(10, num_tokens, 8))
    expected = 10 * wukong.flops(config, num_tokens, width=8)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_fixed_layer_equals_the_paper_step_by_step():
    torch.manual_seed(0)
    layer = WukongLayer(wukong_config(attentive=False), num_tokens=4, width=8)
    tokens = torch.randn(3, 4, 8)
    block = layer.fmb
    interactions = reference.factorization_machine(tokens, block.projection).reshape(3, 16)
    fmb = block.mlp(torch.nn.functional.layer_norm(interactions, (16,))).reshape(3, 3, 8)
    lcb = torch.einsum("mn,bnd->bmd", layer.lcb.weight, tokens)
    residual = torch.einsum("mn,bnd->bmd", layer.residual.weight, tokens)
    expected = torch.nn.functional.layer_norm(torch.cat([fmb, lcb], 1) + residual, (8,))
    torch.testing.assert_close(layer(tokens), expected)


def test_attentive_block_with_a_silent_mlp_equals_the_fixed_block():
    torch.manual_seed(0)
    attentive = FactorizationMachineBlock(wukong_config(attentive=True), 6, 8)
    fixed = FactorizationMachineBlock(wukong_config(attentive=False), 6, 8)
    fixed.norm, fixed.mlp = attentive.norm, attentive.mlp
    last = attentive.projection_mlp[-1]
    fixed.projection.data = last.bias.data.reshape(6, 4)
    tokens = torch.randn(5, 6, 8)
    assert (attentive(tokens) - fixed(tokens)).abs().max() > 1e-3
    torch.nn.init.zeros_(last.weight)
    torch.testing.assert_close(attentive(tokens), fixed(tokens))


@pytest.mark.parametrize("attentive", [True, False])
def test_fresh_projection_has_deviation_one_over_root_n(attentive):
    torch.manual_seed(0)
    block = FactorizationMachineBlock(wukong_config(attentive=attentive, rank=50), 100, 2)
    start = block.projection_mlp[-1].bias if attentive else block.projection
    assert start.std().item() == pytest.approx(0.1, rel=0.05)


def test_output_follows_the_order_of_the_batch():
    torch.manual_seed(0)
    stack = Wukong(wukong_config(), num_tokens=6, width=8)
    tokens = torch.randn(5, 6, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(stack(tokens[order]), stack(tokens)[order])


def test_permuted_tokens_with_permuted_weights_give_the_same_output():
    torch.manual_seed(0)
    tokens, order = torch.randn(3, 4, 8), torch.tensor([2, 0, 3, 1])
    projection, compress = torch.randn(4, 2), LinearCompressBlock(4, 2)
    permuted = factorization_machine(tokens[:, order], projection[order])
    torch.testing.assert_close(permuted, factorization_machine(tokens, projection)[:, order])
    expected = compress(tokens)
    compress.weight.data = compress.weight.data[:, order]
    torch.testing.assert_close(compress(tokens[:, order]), expected)


def test_one_layer_fits_a_product_that_no_linear_map_can():
    torch.manual_seed(0)
    tokens = torch.randn(256, 3, 4)
    target = (tokens[:, 0] * tokens[:, 1]).sum(1)
    layer = Wukong(wukong_config(num_layers=1, rank=3, mlp_hidden=(8,)), num_tokens=3, width=4)
    head = torch.nn.Linear(5 * 4, 1)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for _ in range(300):
        loss = (head(layer(tokens).flatten(1)).squeeze(1) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    flat = torch.cat([tokens.flatten(1), torch.ones(256, 1)], dim=1)
    linear = flat @ torch.linalg.lstsq(flat, target[:, None]).solution
    linear_loss = (linear.squeeze(1) - target).square().mean()
    assert loss < 0.1 * linear_loss


CROSS_LAYER = CrossLayerConfig(num_tokens=3, num_heads=2)


def connected(num_layers=3):
    config = wukong_config(num_layers=num_layers, cross_layer=CROSS_LAYER)
    torch.manual_seed(0)
    return config, Wukong(config, num_tokens=6, width=8)


def test_fresh_cross_layer_connections_leave_the_stack_bit_equal():
    torch.manual_seed(0)
    plain = Wukong(wukong_config(num_layers=3), num_tokens=6, width=8)
    _, stack = connected()
    tokens = torch.randn(5, 6, 8)
    assert torch.equal(stack(tokens), plain(tokens))


def test_every_other_weight_of_a_ranker_starts_as_without_connections():
    plain = Ranker(ranker_config(), seed=3)
    changed = Ranker(ranker_config(interaction=wukong_config(cross_layer=CROSS_LAYER)), seed=3)
    weights = changed.state_dict()
    for name, weight in plain.state_dict().items():
        assert torch.equal(weights.pop(name), weight), name
    assert {name.split(".")[1] for name in weights} == {"cross_layers"}
    batch = make_batch(ranker_config(), (3, 0, 5))
    assert torch.equal(changed(batch).logits, plain(batch).logits)


def test_cross_layer_attention_equals_the_loop():
    torch.manual_seed(0)
    module = CrossLayerAttention(CROSS_LAYER, width=8)
    torch.nn.init.normal_(module.output.weight)
    tokens, earlier = torch.randn(2, 4, 8), [torch.randn(2, 3, 8), torch.randn(2, 3, 8)]
    key, value = module.key_value.weight.detach().split(8)
    weights = {"query": module.query.weight, "key": key, "value": value}
    weights["output"] = module.output.weight
    weights = {name: weight.detach() for name, weight in weights.items()}
    expected = tokens + reference.cross_layer_attention(tokens, earlier, weights, num_heads=2)
    torch.testing.assert_close(module(tokens, earlier), expected, atol=1e-5, rtol=1e-5)


def test_every_layer_looks_back_at_the_inputs_of_all_before_it():
    _, stack = connected()
    for attention in stack.cross_layers.attentions:
        torch.nn.init.normal_(attention.output.weight)
    tokens = torch.randn(5, 6, 8)
    first, second, third = stack.layers
    inputs = [tokens, first(tokens)]
    earlier = [stack.cross_layers.compressions[0](tokens)]
    inputs.append(second(stack.cross_layers.attentions[0](inputs[1], earlier)))
    earlier.append(stack.cross_layers.compressions[1](inputs[1]))
    expected = third(stack.cross_layers.attentions[1](inputs[2], earlier))
    torch.testing.assert_close(stack(tokens), expected)


@pytest.mark.parametrize("num_layers", [2, 4])
def test_connections_are_counted_in_closed_form(num_layers):
    config, stack = connected(num_layers)
    assert wukong.num_parameters(config, 6, 8) == sum(p.numel() for p in stack.parameters())
    with FlopCounterMode(display=False) as counter:
        stack(torch.randn(10, 6, 8))
    expected = 10 * wukong.flops(config, 6, 8)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_connections_learn_although_they_start_silent():
    _, stack = connected()
    tokens, target = torch.randn(64, 6, 8), torch.randn(64, 5, 8)
    optimiser = torch.optim.Adam(stack.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        (stack(tokens) - target).square().mean().backward()
        optimiser.step()
    idle = [name for name, p in stack.named_parameters() if p.grad.abs().max() == 0]
    assert idle == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 1}, "cross_layer: a layer looks back .* found num_layers 1"),
        (
            {"cross_layer": CrossLayerConfig(num_tokens=1, num_heads=3)},
            "cross_layer.num_heads: the heads must divide width 8; found 3",
        ),
    ],
)
def test_connections_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        ranker_config(interaction=wukong_config(**({"cross_layer": CROSS_LAYER} | changes)))
