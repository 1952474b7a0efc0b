"""A loss that draws a student's representation towards what the teacher's was compressed to.

Paper: Foundation-Expert (arXiv 2508.02929), auxiliary loss with a validity mask; FitNets (arXiv
    1412.6550), a hint through a projection that is dropped afterwards.
"""

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from model.representations.config import AlignmentConfig


class AlignmentHead(nn.Module):
    """The student's representation in the space of the teacher's; it is not served.

    y_b = W r_b + c

    Paper: FitNets, section 2.1, the regressor on the student's layer.
    Differs: linear, and onto a compressed representation.

    Args:
        config: Its shape.
        representation_dim: R of the student.
    """

    def __init__(self, config: AlignmentConfig, representation_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(representation_dim, config.dim)

    def forward(self, representation: Float[Tensor, "B R"]) -> Float[Tensor, "B V"]:
        return self.projection(representation)


def alignment_loss(
    aligned: Float[Tensor, "B V"],
    teacher: Float32[Tensor, "B V"],
    mask: Bool[Tensor, " B"],
    normaliser: Float[Tensor, ""],
    config: AlignmentConfig,
) -> Float[Tensor, ""]:
    """How far the student's representation is from the teacher's.

    cosine        L = w Σ_b m_b (1 − cos(y_b, stopgrad(v_b))) / n
    mean_squared  L = w Σ_b m_b |y_b − stopgrad(v_b)|² / (V n)

    A row without a teacher's representation (NaN) adds nothing. No gradient reaches the teacher.

    Paper: Foundation-Expert, auxiliary loss; FitNets, equation 3.
    Differs: the cosine; the divisor is the caller's, as in `model.losses`.

    Args:
        aligned: From `AlignmentHead`.
        teacher: Stored representations of the rows themselves; NaN where missing.
        mask: Rows that count.
        normaliser: Rows of the global batch that count and have one (n); below 1 it is taken as 1.
        config: Weight and kind.
    """
    usable = mask & ~teacher.isnan().any(dim=1)
    target = torch.where(usable[:, None], teacher.detach(), 0.0)
    given = torch.where(usable[:, None], aligned, 0.0)
    if config.loss == "cosine":
        errors = 1.0 - cosine_similarity(given, target, dim=1)
    else:
        errors = (given - target).square().mean(dim=1)
    return config.weight * torch.where(usable, errors, 0.0).sum() / normaliser.clamp(min=1.0)
