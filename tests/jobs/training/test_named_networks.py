"""Every named network: what it is made of, what it costs, and that it can learn by heart."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs.config import Timeline
from jobs.named_networks import NETWORKS, Size
from jobs.training.inputs import InputSpec
from jobs.training.networks import ranker_config
from model import ranker
from model.losses import task_loss
from model.optim import build_optimizers
from model.ranker import Ranker
from tests.model.samples import make_batch

SIZE = Size(
    width=8,
    table_dim=6,
    num_layers=2,
    num_tokens=4,
    hidden=12,
    head_hidden=(16,),
    num_dense_tokens=2,
    num_recent_events=5,
)
SPEC = InputSpec(
    categorical=["user_id", "ad_id"],
    dense=["age", "price", "rate"],
    tasks=["click", "buy"],
    domains=["blue", "red"],
    verticals=[],
    table_rows={"user_id": 9, "ad_id": 20, "surface": 4, "event_type": 3},
    vocabulary_version=0,
)
NO_HISTORY = {"logistic", "dlrm", "dcnv2", "wukong"}
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def shape(name):
    timeline = Timeline(num_events=8)
    return ranker_config(NETWORKS[name](SIZE), timeline, SPEC, SPEC.domains, SPEC.tasks)


@every_network
def test_costs_equal_the_closed_forms(name):
    config = shape(name)
    model = Ranker(config).eval()
    assert (config.history is None) == (name in NO_HISTORY)
    assert ranker.num_parameters(config) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(make_batch(config, (6,) * 8))
    expected = 8 * ranker.flops(config, num_events=6)
    if name == "gem":
        # The counter sees whole squares where causal layers use a part: in the branch without and
        # in that with a window, 6 tokens and then 3.
        expected += 8 * 4 * config.width * ((36 - 21) + (36 - 20) + 2 * (9 - 6))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


@every_network
def test_one_tiny_batch_is_learnt_by_heart(name):
    config = shape(name)
    model, batch = Ranker(config), make_batch(config, (3, 0, 8, 1, 7, 2))
    labels = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0], [1, 0], [0, 1]]).float()
    mask = torch.ones(6, 2, dtype=torch.bool)
    optimizers = build_optimizers(model, lr_dense=1e-2, lr_sparse=5e-2)
    losses = []
    for _ in range(400):
        loss = task_loss(model(batch).logits, labels, mask, torch.full((2,), 6.0))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert losses[-1] < 0.02


def test_the_default_size_fits_every_network():
    for name, network in NETWORKS.items():
        made = ranker_config(network(Size()), Timeline(), SPEC, SPEC.domains, SPEC.tasks)
        assert ranker.num_parameters(made) > 0, name
