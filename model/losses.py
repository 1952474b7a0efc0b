"""Losses of rankers and adapters, each a sum over rows divided by a given number.

Those of the teacher's scores are in `model.distillation.soft_losses`. The divisor is the caller's,
so that workers with parts of one global batch divide by the same number and their losses add up to
that of one worker.

Paper: ExFM (arXiv 2502.17494):
    L_vm = h(ŷ_S, y) + w · h(ŷ_D, min(1, α ŷ_F)) + h(ŷ_D2, stopgrad(ŷ_SA)),  h cross-entropy
    L_sa = h(ŷ_SA, y)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def task_loss(
    logits: Float[Tensor, "B Y"],
    labels: Float[Tensor, "B Y"],
    mask: Bool[Tensor, "B Y"],
    normaliser: Float[Tensor, " Y"],
) -> Float[Tensor, ""]:
    """Cross-entropy on the labels, summed over tasks.

    L = Σ_t Σ_b m_bt · h(z_bt, y_bt) / n_t

    Paper: ExFM, h(ŷ_S, y).
    Differs: several tasks, a mask for labels that are not mature, and the divisor.

    Args:
        logits: Natural log-odds.
        labels: 0 or 1; anything, NaN included, where the mask is False.
        mask: Whether the label counts.
        normaliser: Labels that count in the global batch, per task; below 1 it is taken as 1, so
            that a task without labels adds 0.
    """
    return _cross_entropy(logits, labels, mask, normaliser).sum()


def adapted_distillation_loss(
    logits: Float[Tensor, "B Y"],
    adapted: Float[Tensor, "B Y"],
    mask: Bool[Tensor, "B Y"],
    normaliser: Float[Tensor, " Y"],
    *,
    distilled: Sequence[str],
    tasks: Sequence[str],
) -> Float[Tensor, ""]:
    """Cross-entropy of the second distillation heads on the adapted soft labels.

    L = Σ_t Σ_b m_bt · h(z_bt, σ(stopgrad(z_SA,bt))) / n_t,  t over the distilled tasks

    No gradient reaches the adapter, nor the teacher behind it.

    Paper: ExFM, h(ŷ_D2, stopgrad(ŷ_SA)); as there, it has weight 1.
    Differs: the divisor and the mask.

    Args:
        logits: Log-odds of the second distillation heads (ŷ_D2).
        adapted: Log-odds of the student adapter (ŷ_SA), NaN where the teacher gave no score.
        mask: Whether the score may be used.
        normaliser: Usable scores in the global batch, per task; below 1 it is taken as 1.
        distilled: Names of the distilled tasks.
        tasks: Names of the columns.
    """
    usable = usable_scores(adapted, mask)
    t = [tasks.index(task) for task in distilled]
    targets = torch.sigmoid(adapted.detach()[:, t])
    return _cross_entropy(logits[:, t], targets, usable[:, t], normaliser[t]).sum()


def adapter_loss(
    adapted: Float[Tensor, "B Y"],
    labels: Float[Tensor, "B Y"],
    mask: Bool[Tensor, "B Y"],
    normaliser: Float[Tensor, " Y"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the adapter on the labels, where the teacher gave a score.

    L_sa = Σ_t Σ_b m_bt · h(z_SA,bt, y_bt) / n_t

    The adapter reads nothing but the teacher's detached score and the domain, so this loss has no
    gradient outside the adapter.

    Paper: ExFM, L_sa.
    Differs: the divisor and the masks.

    Args:
        adapted: Log-odds of the student adapter (ŷ_SA), NaN where the teacher gave no score.
        labels: 0 or 1; anything, NaN included, where the mask is False.
        mask: Whether the label counts.
        normaliser: Labels that count and have a score in the global batch, per task; below 1 it is
            taken as 1.
    """
    return _cross_entropy(adapted, labels, usable_scores(adapted, mask), normaliser).sum()


def usable_scores(scores: Float[Tensor, "B Y"], mask: Bool[Tensor, "B Y"]) -> Bool[Tensor, "B Y"]:
    """Whether a score is both allowed by the mask and present."""
    return mask & ~scores.isnan()


def _cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor, normaliser: Tensor) -> Tensor:
    # Both sides are replaced before the loss: masking a NaN later leaves its gradient.
    zero = logits.new_zeros(())
    losses = binary_cross_entropy_with_logits(
        torch.where(mask, logits, zero), torch.where(mask, targets, zero), reduction="none"
    )
    return (losses * mask).sum(0) / normaliser.clamp(min=1.0)
