"""On CUDA every named network learns, says what it says on a CPU, and moves between the two."""

import io

import pytest
import torch

from jobs.named_networks import NETWORKS
from model.optim import WeightAverage, build_optimizers
from model.ranker import Ranker
from tests.gpu import samples

pytestmark = pytest.mark.gpu
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def logits(model, rows):
    with torch.no_grad():
        return model.eval()(rows).logits.float().cpu()


@every_network
def test_a_network_learns_and_says_the_same_as_on_a_cpu(name, device):
    config = samples.shape(name)
    here, there = Ranker(config, seed=1), Ranker(config, seed=1).to(device)
    rows, targets = samples.batch(config), samples.labels()
    moved = rows.map(lambda x: x.to(device))
    torch.testing.assert_close(logits(there, moved), logits(here, rows), atol=1e-3, rtol=0.0)
    optimizers = build_optimizers(there.train(), lr_dense=2e-3, lr_sparse=2e-2)
    losses = [samples.step(there, optimizers, moved, targets.to(device)) for _ in range(20)]
    assert all(map(torch.isfinite, torch.tensor(losses)))
    assert losses[-1] < 0.9 * losses[0]
    here.load_state_dict(there.state_dict())
    torch.testing.assert_close(logits(there, moved), logits(here, rows), atol=1e-3, rtol=1e-3)


@every_network
def test_half_precision_changes_a_network_little(name, device):
    config = samples.shape(name)
    model = Ranker(config, seed=1).to(device)
    rows = samples.batch(config).map(lambda x: x.to(device))
    targets = samples.labels().to(device)
    exact = logits(model, rows)
    with samples.half_precision(device):
        rounded = logits(model, rows)
        loss = samples.loss_of(model.train(), rows, targets)
    assert (rounded - exact).abs().max() < 0.02
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(
        bool(g.coalesce().values().isfinite().all() if g.is_sparse else g.isfinite().all())
        for g in gradients
    )


@pytest.mark.parametrize("name", [name for name in NETWORKS if samples.shape(name).history])
def test_no_row_sees_an_event_at_or_after_its_cut_off(name, device):
    config = samples.shape(name)
    model = Ranker(config, seed=1).to(device)
    rows = samples.batch(config)
    history, changed = rows.history, samples.batch(config, seed=9).history
    cut_off = torch.zeros(len(samples.LENGTHS), dtype=torch.int64)
    # Rows at half a timeline: everything after them is another history.
    cut_off = cut_off.scatter(0, history.segment[::3], history.end[::3])
    segment = torch.arange(len(cut_off)).repeat_interleave(history.offsets.diff())
    later = torch.arange(len(segment)) >= cut_off[segment]
    assert bool(later.any()) and not bool(later.all())
    before = logits(model, rows.map(lambda x: x.to(device)))[::3]
    for mine, other in zip(
        (history.categorical, history.dense), (changed.categorical, changed.dense), strict=True
    ):
        mine[later] = other[later]
    after = logits(model, rows.map(lambda x: x.to(device)))
    torch.testing.assert_close(after[::3], before, atol=1e-5, rtol=0.0)


def test_a_checkpoint_moves_to_the_gpu_and_back_bit_for_bit(device):
    config = samples.shape("gem")
    rows, targets = samples.batch(config), samples.labels()
    here = Ranker(config, seed=1)
    optimizers, average = build_optimizers(here, 1e-3, 1e-2), WeightAverage(here, 10.0)
    for index in range(3):
        samples.step(here, optimizers, rows, targets)
        average.update(index)
    saved = io.BytesIO()
    torch.save(
        {
            "weights": here.state_dict(),
            "averages": average.averages,
            "states": [optimizer.state_dict() for optimizer in optimizers],
        },
        saved,
    )
    held = torch.load(io.BytesIO(saved.getvalue()), map_location=device, weights_only=True)
    there = Ranker(config, seed=2).to(device)
    there.load_state_dict(held["weights"])
    moved = build_optimizers(there, 1e-3, 1e-2)
    for optimizer, state in zip(moved, held["states"], strict=True):
        optimizer.load_state_dict(state)
    back = {
        "weights": there.state_dict(),
        "averages": held["averages"],
        "states": [optimizer.state_dict() for optimizer in moved],
    }
    original = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    ours, theirs = flat(back), flat(original)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 100
    for name, tensor in ours.items():
        assert torch.equal(tensor.cpu(), theirs[name]), name
    on_device = rows.map(lambda x: x.to(device))
    loss = samples.step(there, moved, on_device, targets.to(device))
    assert loss == pytest.approx(samples.step(here, optimizers, rows, targets), abs=1e-3)
    torch.testing.assert_close(logits(there, on_device), logits(here, rows), atol=1e-2, rtol=0.0)


def flat(tree, name=""):
    """Tensors of nested dictionaries and lists by their path."""
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = {}
    for key, part in parts:
        if isinstance(part, torch.Tensor | dict | list):
            found |= flat(part, f"{name}/{key}")
    return found
