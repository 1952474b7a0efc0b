"""Every prefix of the latent reconstructs, and nothing flows back into the teacher."""

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from model.representations import autoencoder
from model.representations.autoencoder import MatryoshkaAutoencoder, reconstruction_loss
from model.representations.config import AutoencoderConfig
from tests.reference import model_representations as reference

CONFIG = AutoencoderConfig(input_dim=12, hidden=(16,), prefixes=(1, 2, 4))


def activations(num_rows, seed=0):
    """Twelve columns of three hidden causes, of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(num_rows, 3, generator=generator)
    mixing = torch.randn(3, 12, generator=torch.Generator().manual_seed(9))
    return torch.tanh(causes @ mixing) * torch.logspace(-2, 2, 12) + 5.0


def fitted(num_steps=150):
    model = MatryoshkaAutoencoder(CONFIG, seed=1)
    model.normaliser.fit(activations(200))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    mask, n = torch.ones(200, dtype=torch.bool), torch.tensor(200.0)
    for _ in range(num_steps):
        optimizer.zero_grad()
        reconstruction_loss(*model(activations(200)), mask, n).sum().backward()
        optimizer.step()
    return model


def test_wider_prefixes_reconstruct_unseen_rows_better():
    model = fitted()
    unseen = activations(300, seed=4)
    mask, n = torch.ones(300, dtype=torch.bool), torch.tensor(300.0)
    errors = reconstruction_loss(*model(unseen), mask, n).tolist()
    assert 1.0 > errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_what_lies_behind_a_prefix_does_not_count():
    model = fitted(20)
    target, reconstructed = model(activations(5))
    latent = model.encode(activations(5))
    assert latent.abs().max() <= 1.0
    for width, made in zip(CONFIG.prefixes, reconstructed, strict=True):
        cut = torch.cat([latent[:, :width], torch.zeros(5, 4 - width)], dim=1)
        torch.testing.assert_close(model.decoder(cut), made)
    torch.testing.assert_close(target, model.normaliser(activations(5)))


def test_no_gradient_reaches_the_activations():
    model = MatryoshkaAutoencoder(CONFIG)
    given = activations(6).requires_grad_()
    target, reconstructed = model(given)
    assert not target.requires_grad
    loss = reconstruction_loss(
        target, reconstructed, torch.ones(6, dtype=torch.bool), torch.tensor(6.0)
    )
    (loss.sum() + model.encode(given).sum()).backward()
    assert given.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_loss_is_the_masked_sum_over_the_divisor():
    model = MatryoshkaAutoencoder(CONFIG)
    with torch.no_grad():
        target, reconstructed = model(activations(4))
    mask = torch.tensor([True, False, True, True])
    expected = reference.reconstruction(target, list(reconstructed), [0, 2, 3], 7.0)
    actual = reconstruction_loss(target, reconstructed, mask, torch.tensor(7.0))
    assert actual.tolist() == pytest.approx(expected, rel=1e-5)
    halves = [
        reconstruction_loss(target[s], reconstructed[:, s], mask[s], torch.tensor(7.0))
        for s in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(halves), actual)


def test_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = MatryoshkaAutoencoder(CONFIG, 5), MatryoshkaAutoencoder(CONFIG, 5)
    assert torch.equal(torch.rand(1), expected)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    other = MatryoshkaAutoencoder(CONFIG, 6).encoder[0].weight
    assert not torch.equal(first.encoder[0].weight, other)


def test_parameters_and_flops_equal_the_closed_forms():
    model = MatryoshkaAutoencoder(CONFIG)
    assert autoencoder.num_parameters(CONFIG) == sum(p.numel() for p in model.parameters())
    given = activations(8)
    with FlopCounterMode(display=False) as counter:
        model.encode(given)
    assert counter.get_total_flops() == 8 * autoencoder.encoder_flops(CONFIG)


@pytest.mark.parametrize("prefixes", [(8, 4), (4, 4), (16, 8, 32)])
def test_nested_widths_that_do_not_grow_are_refused(prefixes):
    with pytest.raises(ValidationError, match="prefixes: nested widths grow"):
        AutoencoderConfig(input_dim=12, prefixes=prefixes)
