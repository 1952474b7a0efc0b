"""Cross-debias: scores of a teacher that was shown another share of the negatives."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def convert_negative_sampling(
    probabilities: Float[Tensor, "*shape"], ratio: float, wanted_ratio: float
) -> Float[Tensor, "*shape"]:
    """Probabilities as they would be if another share of the negatives had been kept.

    logit(p') = logit(p) + ln(r / r')

    Keeping a share r of the negatives divides the odds' denominator by 1/r; a model of such rows
    predicts odds that are 1/r times the true ones. From r to r' and back gives the same
    probabilities; missing ones stay missing, 0 and 1 stay what they are.

    Paper: Rec-Distill (arXiv 2605.29755), cross-debias: the teacher's logit under the student's
        correction.
    Differs: the paper's rate of positives and bias term are left out: all positives are kept.

    Args:
        probabilities: Predictions of a model that learnt rows with a share `ratio` of negatives.
        ratio: r, above 0 and at most 1.
        wanted_ratio: r', likewise.
    """
    return torch.sigmoid(torch.logit(probabilities) + math.log(ratio / wanted_ratio))
