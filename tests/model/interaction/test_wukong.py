"""The Wukong stack against its formulas, its closed forms and its invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model.interaction import wukong
from model.interaction.wukong import (
    FactorizationMachineBlock,
    LinearCompressBlock,
    Wukong,
    WukongLayer,
    factorization_machine,
)
from tests.model.samples import wukong_config
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
