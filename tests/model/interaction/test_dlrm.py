"""Dot products of all pairs against the loop."""

import torch

from model.interaction.config import DlrmConfig
from model.interaction.dlrm import Dlrm
from tests.reference import model_interaction as reference


def read_by_the_top_mlp(network, tokens):
    read = []
    network.top_mlp.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    network(tokens)
    return read[0]


def test_top_mlp_reads_every_pair_once():
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 4)
    network = Dlrm(DlrmConfig(num_kept_tokens=0, top_hidden=(8,)), 5, 4)
    expected = reference.dot_products(tokens)
    torch.testing.assert_close(read_by_the_top_mlp(network, tokens), expected)


def test_kept_tokens_are_the_last_and_pass_unchanged():
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 4)
    network = Dlrm(DlrmConfig(num_kept_tokens=2, top_hidden=(8,)), 5, 4)
    read = read_by_the_top_mlp(network, tokens)
    assert torch.equal(read[:, :8], tokens[:, 3:].flatten(1))
    torch.testing.assert_close(read[:, 8:], reference.dot_products(tokens))


def test_without_kept_tokens_only_dot_products_matter():
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 4, dtype=torch.float64)
    network = Dlrm(DlrmConfig(num_kept_tokens=0, top_hidden=(8,)), 5, 4).double()
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    torch.testing.assert_close(network(tokens @ rotation), network(tokens))


def test_state_holds_the_top_mlp_alone():
    network = Dlrm(DlrmConfig(num_kept_tokens=0, top_hidden=(8,)), 5, 4)
    assert set(network.state_dict()) == {"top_mlp.0.weight", "top_mlp.0.bias"}
