"""Cross network and deep network against the paper's equations."""

import torch
from torch.nn.functional import linear

from model.interaction.config import DcnV2Config
from model.interaction.dcnv2 import CrossNetwork, DcnV2
from tests.reference import model_interaction as reference


def test_cross_network_equals_the_loop_over_layers():
    torch.manual_seed(0)
    network, inputs = CrossNetwork(3, 5), torch.randn(4, 5)
    weights = [layer.weight.detach() for layer in network.layers]
    biases = [layer.bias.detach() for layer in network.layers]
    expected = reference.cross_network(inputs, weights, biases)
    torch.testing.assert_close(network(inputs), expected, atol=1e-5, rtol=1e-5)


def test_one_literal_cross():
    network = CrossNetwork(1, 2)
    network.layers[0].weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    network.layers[0].bias.data = torch.tensor([0.5, 0.0])
    # x ⊙ (swap(x) + b) + x = [2 · 3.5 + 2, 3 · 2 + 3]
    torch.testing.assert_close(network(torch.tensor([[2.0, 3.0]])), torch.tensor([[9.0, 9.0]]))


def test_layers_raise_the_order_by_one_each():
    torch.manual_seed(0)
    network = CrossNetwork(3, 4).double()
    for layer in network.layers:
        torch.nn.init.zeros_(layer.bias)
    inputs, scales = torch.randn(4, dtype=torch.float64), torch.arange(1.0, 6.0).double()
    outputs = network(scales[:, None] * inputs)
    # A polynomial of degree 4 without constant in the scale: four powers fit five points exactly.
    powers = torch.stack([scales**k for k in range(1, 5)], dim=1)
    residual = powers @ torch.linalg.lstsq(powers, outputs).solution - outputs
    assert residual.abs().max() < 1e-9
    residual = powers[:, :3] @ torch.linalg.lstsq(powers[:, :3], outputs).solution - outputs
    assert residual.abs().max() > 1e-3


def test_parallel_puts_the_crossed_tokens_before_the_deep_ones():
    torch.manual_seed(0)
    network = DcnV2(DcnV2Config(num_cross_layers=2, deep_hidden=(5, 8)), 3, 4)
    tokens = torch.randn(6, 3, 4)
    flat = tokens.flatten(1)
    first, last = network.deep[0], network.deep[2]
    deep = linear(linear(flat, first.weight, first.bias).relu(), last.weight, last.bias).relu()
    outputs = network(tokens)
    torch.testing.assert_close(outputs[:, :3].flatten(1), network.cross(flat))
    torch.testing.assert_close(outputs[:, 3:].flatten(1), deep)


def test_stacked_feeds_the_crossed_tokens_to_the_deep_network():
    torch.manual_seed(0)
    config = DcnV2Config(num_cross_layers=2, deep_hidden=(8,), structure="stacked")
    network = DcnV2(config, 3, 4)
    tokens = torch.randn(6, 3, 4)
    layer = network.deep[0]
    expected = linear(network.cross(tokens.flatten(1)), layer.weight, layer.bias).relu()
    torch.testing.assert_close(network(tokens).flatten(1), expected)
