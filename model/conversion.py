"""Click and then conversion: one chain over all impressions, and corrections for who clicked.

Notation, per impression: a and b the log-odds of a click and of a conversion given one, y whether
it was clicked, z whether it converted, m whether it counts. Losses are sums over rows divided by a
given number n, as in `model.losses`, so that those of the parts of a batch add up.

Paper: ESMM (arXiv 1804.07931); ESCM² (arXiv 2204.05125).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class Outcomes(NamedTuple):
    """What is known of a batch's impressions."""

    clicks: Float[Tensor, " B"]
    """y: 0 or 1."""
    conversions: Float[Tensor, " B"]
    """z: 0 or 1; anything where there was no click or the mask is False."""
    mask: Bool[Tensor, " B"]
    """m: whether the impression counts."""
    normaliser: Float[Tensor, ""]
    """n: impressions that count in the global batch, clicked or not; below 1 it is taken as 1."""


def chained_log_odds(
    click_logits: Float[Tensor, " B"], conversion_logits: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Log-odds of a click followed by a conversion.

    logit(σ(a) σ(b)) = −ln(e^{−a} + e^{−b} + e^{−a−b})

    Paper: ESMM, equation 1 (pCTCVR = pCTR · pCVR).
    Differs: none; in this form neither factor is rounded to 0 or 1.
    """
    a, b = click_logits, conversion_logits
    return -torch.stack([-a, -b, -a - b]).logsumexp(0)


def chain_loss(
    click_logits: Float[Tensor, " B"], conversion_logits: Float[Tensor, " B"], outcomes: Outcomes
) -> Float[Tensor, ""]:
    """Cross-entropy of the chain on clicks that converted, over all impressions.

    L = Σ_b m_b · h(logit(σ(a_b) σ(b_b)), y_b ∧ z_b) / n

    The conversion's tower learns from every impression and never from clicks alone. ESMM adds the
    loss of the click, which is `task_loss`.

    Paper: ESMM, equation 3.
    Differs: the mask and the divisor.
    """
    logits = chained_log_odds(click_logits, conversion_logits)
    # An impression without a click did not convert, whatever stands there.
    labels = torch.where(outcomes.clicks > 0, outcomes.conversions, 0.0)
    losses = _cross_entropy(logits, labels, outcomes.mask) * outcomes.mask
    return losses.sum() / outcomes.normaliser.clamp(min=1.0)


def click_weights(
    click_logits: Float[Tensor, " B"], clicks: Float[Tensor, " B"], max_weight: float
) -> Float[Tensor, " B"]:
    """Inverse propensities of the clicked rows, and 0 for the others.

    w_b = y_b · min(1 / σ(a_b), c)

    No gradient reaches the click's tower: it must not learn to make conversions cheap.

    Paper: ESCM², section 4.2.
    Differs: clipped at c, which trades a bias for a bounded variance.
    """
    return clicks * (1.0 + (-click_logits.detach()).exp()).clamp(max=max_weight)


def inverse_propensity_loss(
    click_logits: Float[Tensor, " B"],
    conversion_logits: Float[Tensor, " B"],
    outcomes: Outcomes,
    max_weight: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the conversion on clicked rows, weighted to stand for all impressions.

    L_IPS = Σ_b m_b · w_b · e_b / n,  e_b = h(b_b, z_b)

    Where clicks follow the click's tower its expectation is the loss over all impressions.

    Paper: ESCM², equation 8 (ESCM²-IPS).
    Differs: the clipping at `max_weight` (c), the mask and the divisor.
    """
    _, weights, errors = _clicked(click_logits, conversion_logits, outcomes, max_weight)
    return (weights * errors).sum() / outcomes.normaliser.clamp(min=1.0)


def doubly_robust_loss(
    click_logits: Float[Tensor, " B"],
    conversion_logits: Float[Tensor, " B"],
    imputed_errors: Float[Tensor, " B"],
    outcomes: Outcomes,
    max_weight: float,
) -> Float[Tensor, ""]:
    """Imputed errors ê for all impressions, corrected where there was a click.

    L_DR = Σ_b m_b · (ê_b + w_b (e_b − ê_b) + w_b (e_b − ê_b)²) / n,  e_b = h(b_b, z_b)

    The first two terms have the right expectation where either the propensities or the imputed
    errors are right; the third teaches the imputed errors.

    Paper: ESCM², equations 9 and 10 (ESCM²-DR).
    Differs: as `inverse_propensity_loss`.
    """
    counted, weights, errors = _clicked(click_logits, conversion_logits, outcomes, max_weight)
    gaps = errors - imputed_errors
    imputed = torch.where(outcomes.mask, imputed_errors, 0.0)
    corrections = torch.where(counted, gaps + gaps.square(), 0.0)
    return (imputed + weights * corrections).sum() / outcomes.normaliser.clamp(min=1.0)


def _clicked(
    click_logits: Tensor, conversion_logits: Tensor, outcomes: Outcomes, max_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows were clicked and count, their weights, and the errors of the conversion there."""
    counted = outcomes.mask & (outcomes.clicks > 0)
    weights = click_weights(click_logits, outcomes.clicks, max_weight)
    weights = torch.where(counted, weights, 0.0)
    return counted, weights, _cross_entropy(conversion_logits, outcomes.conversions, counted)


def _cross_entropy(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    # Both sides are replaced before the loss: masking a NaN later leaves its gradient.
    zero = logits.new_zeros(())
    return binary_cross_entropy_with_logits(
        torch.where(counted, logits, zero), torch.where(counted, labels, zero), reduction="none"
    )
