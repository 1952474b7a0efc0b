"""The plain deep network and the sum."""

import torch

from model.interaction.config import LogisticConfig, MlpConfig
from model.interaction.logistic import Logistic
from model.interaction.mlp import FlatMLP


def test_network_reads_the_flattened_tokens_and_ends_in_a_relu():
    torch.manual_seed(0)
    network, tokens = FlatMLP(MlpConfig(hidden=(5, 8)), 3, 4), torch.randn(6, 3, 4)
    first, last = network.mlp[0], network.mlp[2]
    hidden = torch.relu(tokens.reshape(6, 12) @ first.weight.T + first.bias)
    expected = torch.relu(hidden @ last.weight.T + last.bias).reshape(6, 2, 4)
    torch.testing.assert_close(network(tokens), expected)


def test_logistic_adds_the_tokens():
    tokens = torch.tensor([[[1.0, -2.0], [3.0, 0.5]]])
    outputs = Logistic(LogisticConfig(), 2, 2)(tokens)
    assert torch.equal(outputs, torch.tensor([[[4.0, -1.5]]]))
