"""The plain deep network and the sum."""

import pytest
import torch

from model.interaction import mlp
from model.interaction.config import DcnV2Config, DlrmConfig, LogisticConfig, MlpConfig
from model.interaction.kinds import build_interaction
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


@pytest.mark.parametrize(
    "config",
    [
        MlpConfig(hidden=(64, 8), dropout=0.5),
        DcnV2Config(num_cross_layers=1, deep_hidden=(64, 8), structure="stacked", dropout=0.5),
        DlrmConfig(num_kept_tokens=0, top_hidden=(64, 8), dropout=0.5),
    ],
    ids=lambda config: config.kind,
)
def test_dropout_acts_on_hidden_layers_in_training_only(config):
    torch.manual_seed(0)
    stack, tokens = build_interaction(config, 3, 4), torch.randn(32, 3, 4)
    plain = build_interaction(config.model_copy(update={"dropout": 0.0}), 3, 4)
    plain.load_state_dict(dict(zip(plain.state_dict(), stack.state_dict().values(), strict=True)))
    assert (stack(tokens) - plain(tokens)).abs().max() > 1e-3
    assert torch.equal(stack.eval()(tokens), plain(tokens))


def test_batch_norm_acts_before_the_relu_and_is_counted():
    torch.manual_seed(0)
    config = MlpConfig(hidden=(5, 8), batch_norm=True)
    network, tokens = FlatMLP(config, 3, 4), torch.randn(6, 3, 4)
    first, last = network.mlp[0], network.mlp[3]

    def normed(rows):
        return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()

    hidden = normed(tokens.flatten(1) @ first.weight.T + first.bias).relu()
    expected = normed(hidden @ last.weight.T + last.bias).relu().reshape(6, 2, 4)
    torch.testing.assert_close(network(tokens), expected, atol=1e-5, rtol=1e-5)
    assert mlp.num_parameters(config, 3, 4) == sum(p.numel() for p in network.parameters())
