"""The chain of click and conversion, and what its corrections are worth in expectation."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.conversion import (
    Outcomes,
    chain_loss,
    chained_log_odds,
    click_weights,
    doubly_robust_loss,
    inverse_propensity_loss,
)
from tests.reference.model_losses import cross_entropy

CLICK = torch.tensor([0.5, -1.0, 2.0])
CONVERSION = torch.tensor([-0.5, 0.3, -2.0])
CONVERSIONS = torch.tensor([1.0, 0.0, 1.0])
MASK = torch.ones(3, dtype=torch.bool)
COUNT = torch.tensor(3.0)


@settings(deadline=None, max_examples=25)
@given(a=st.floats(-20, 20), b=st.floats(-20, 20))
def test_chain_is_the_product_of_the_probabilities(a, b):
    logits = chained_log_odds(*(torch.tensor([x], dtype=torch.float64) for x in (a, b)))
    p = 1 / (1 + math.exp(-a)) / (1 + math.exp(-b))
    assert logits.sigmoid().item() == pytest.approx(p, rel=1e-9)


def test_chain_stays_finite_where_a_factor_rounds_to_one_or_zero():
    logits = chained_log_odds(torch.tensor([80.0, -200.0, 80.0]), torch.tensor([80.0, 5.0, -3.0]))
    expected = torch.tensor([80.0 - math.log(2.0), -200.0 - math.log(1 + math.exp(-5)), -3.0])
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0.0)


def test_chain_loss_is_the_sum_over_all_impressions():
    clicks, conversions = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, math.nan, math.nan])
    mask = torch.tensor([True, True, False])
    click, conversion = CLICK.clone().requires_grad_(), CONVERSION.clone().requires_grad_()
    loss = chain_loss(click, conversion, Outcomes(clicks, conversions, mask, torch.tensor(2.0)))
    odds = chained_log_odds(CLICK, CONVERSION).tolist()
    expected = (cross_entropy(odds[0], 1.0) + cross_entropy(odds[1], 0.0)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    # An impression without a click teaches the conversion too; a masked one nothing.
    assert (conversion.grad != 0).tolist() == (click.grad != 0).tolist() == [True, True, False]


def test_weights_are_inverse_propensities_clipped_and_without_gradient():
    click = CLICK.clone().requires_grad_()
    weights = click_weights(click, torch.tensor([1.0, 1.0, 0.0]), max_weight=3.0)
    expected = torch.tensor([1 / torch.sigmoid(CLICK[0]).item(), 3.0, 0.0])
    torch.testing.assert_close(weights, expected)
    assert not weights.requires_grad


def outcomes(clicks):
    return Outcomes(clicks, CONVERSIONS, MASK, COUNT)


def expectation(loss_of_clicks):
    """Mean over all ways to click, each as likely as the click's tower says."""
    p = CLICK.double().sigmoid().tolist()
    total = 0.0
    for clicks in product((0.0, 1.0), repeat=3):
        likelihood = math.prod(p[b] if y else 1 - p[b] for b, y in enumerate(clicks))
        total += likelihood * loss_of_clicks(torch.tensor(clicks)).item()
    return total


def over_all_impressions():
    pairs = zip(CONVERSION.tolist(), CONVERSIONS.tolist(), strict=True)
    return sum(cross_entropy(logit, label) for logit, label in pairs) / 3


def test_inverse_propensity_loss_has_the_expectation_of_the_loss_over_all_impressions():
    mean = expectation(
        lambda clicks: inverse_propensity_loss(CLICK, CONVERSION, outcomes(clicks), 1e9)
    )
    assert mean == pytest.approx(over_all_impressions(), rel=1e-5)
    clipped = expectation(
        lambda clicks: inverse_propensity_loss(CLICK, CONVERSION, outcomes(clicks), 1.0)
    )
    assert clipped < 0.9 * mean


def robust(clicks, click_logits, imputed):
    """The doubly robust loss less its third term, which only teaches the imputed errors."""
    loss = doubly_robust_loss(click_logits, CONVERSION, imputed, outcomes(clicks), 1e9)
    pairs = zip(CONVERSION.tolist(), CONVERSIONS.tolist(), strict=True)
    errors = torch.tensor([cross_entropy(logit, label) for logit, label in pairs])
    weights = click_weights(click_logits, clicks, 1e9)
    return loss - (weights * (errors - imputed).square()).sum() / 3


def test_doubly_robust_loss_is_right_where_propensity_or_imputation_is():
    pairs = zip(CONVERSION.tolist(), CONVERSIONS.tolist(), strict=True)
    right = torch.tensor([cross_entropy(logit, label) for logit, label in pairs])
    wrong, bent = torch.tensor([0.1, 2.0, 0.7]), CLICK + 1.0
    expected = over_all_impressions()
    for click_logits, imputed in ((CLICK, wrong), (bent, right), (CLICK, right)):
        mean = expectation(lambda y, a=click_logits, e=imputed: robust(y, a, e))
        assert mean == pytest.approx(expected, rel=1e-5)
    assert expectation(lambda y: robust(y, bent, wrong)) != pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("robustly", [False, True])
def test_unknown_conversions_give_no_gradient(robustly):
    conversion = CONVERSION.clone().requires_grad_()
    imputed = torch.full((3,), 0.5, requires_grad=True)
    clicks, labels = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, math.nan, math.nan])
    mask = torch.tensor([True, True, False])
    known = Outcomes(clicks, labels, mask, torch.tensor(2.0))
    if robustly:
        loss = doubly_robust_loss(CLICK, conversion, imputed, known, 10.0)
    else:
        loss = inverse_propensity_loss(CLICK, conversion, known, 10.0)
    loss.backward()
    assert (conversion.grad != 0).tolist() == [True, False, False]
    if robustly:
        assert imputed.grad.isfinite().all()
        assert (imputed.grad != 0).tolist() == [True, True, False]


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(0, 3))
def test_parts_of_a_batch_add_up(cut):
    clicks = torch.tensor([1.0, 0.0, 1.0])

    def losses(rows):
        a, b, y, z, m = (x[rows] for x in (CLICK, CONVERSION, clicks, CONVERSIONS, MASK))
        part, imputed = Outcomes(y, z, m, COUNT), torch.full((len(a),), 0.5)
        return torch.stack(
            [
                chain_loss(a, b, part),
                inverse_propensity_loss(a, b, part, 10.0),
                doubly_robust_loss(a, b, imputed, part, 10.0),
            ]
        )

    whole = losses(slice(0, 3))
    torch.testing.assert_close(losses(slice(0, cut)) + losses(slice(cut, 3)), whole)
