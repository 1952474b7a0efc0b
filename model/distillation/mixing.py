"""Label mixing: the serving heads learn the label and the teacher's score as one target."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mix_labels(
    labels: Float[Tensor, "B Y"],
    teacher: Float[Tensor, "B Y"],
    usable: Bool[Tensor, "B Y"],
    share: float,
) -> Float[Tensor, "B Y"]:
    """Labels moved towards the teacher's probabilities; the plain label where there is no score.

    y' = (1 − λ) y + λ ŷ_F

    Cross-entropy is linear in its target, so h(z, y') = (1 − λ) h(z, y) + λ h(z, ŷ_F): the weight
    of a row does not change, unlike with a soft label beside the label. No gradient reaches the
    teacher.

    Paper: Hinton, Vinyals and Dean (arXiv 1503.02531), section 2, weighted average of both
        objectives.
    Differs: temperature 1.

    Args:
        labels: 0 or 1; NaN where unknown, and then NaN afterwards.
        teacher: The teacher's probabilities (ŷ_F); anything, NaN included, where not usable.
        usable: Whether the score may be used.
        share: λ, at least 0 and below 1.
    """
    return torch.where(usable, (1.0 - share) * labels + share * teacher.detach(), labels)
