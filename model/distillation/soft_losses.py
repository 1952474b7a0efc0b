"""Losses on the teacher's scores, stacked as the configuration says.

Each is a loss per row, of one task; rows without a score have none. `distillation_loss` adds them
up and divides by a given number, as `model.losses` does, so that workers with parts of one global
batch add up to one. Of `pairwise` and `listwise` that holds where all rows that are compared lie
with one worker: a pair of rows of two workers is in neither's loss.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.distillation.config import SoftLabel
from model.heads import LOGIT_EPSILON
from model.losses import usable_scores


def distillation_loss(
    logits: Mapping[str, Float[Tensor, "B Y"]],
    teacher: Float[Tensor, "B Y"],
    mask: Bool[Tensor, "B Y"],
    normaliser: Float[Tensor, " Y"],
    *,
    soft_labels: Sequence[SoftLabel],
    tasks: Sequence[str],
    users: Int64[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """All losses of the soft labels, weighted.

    L = Σ_k w_k Σ_b ℓ_k(z_b / T_k, ŷ_F,b) / n_t(k)

    Where the teacher's score is missing (NaN) or masked out the row adds nothing; a missing score
    is never replaced. No gradient reaches the teacher.

    Paper: ExFM (arXiv 2502.17494), w · h(ŷ_D, min(1, α ŷ_F)).
    Differs: the temperature is ours (1 gives the paper's loss); several losses; weight,
        amplification and temperature belong to a loss and task.

    Args:
        logits: Log-odds by what they predict: `auxiliary` (ŷ_D) and `serving` (ŷ_S).
        teacher: The teacher's probabilities (ŷ_F), in the student's order of tasks.
        mask: Whether the score may be used.
        normaliser: Usable scores in the global batch, per task; below 1 it is taken as 1.
        soft_labels: What is learnt of which task.
        tasks: Names of the columns.
        users: User of each row, by any number; needed by losses within a user.
    """
    usable = usable_scores(teacher, mask)
    teacher = teacher.detach()
    total = next(iter(logits.values())).new_zeros(())
    for label in soft_labels:
        t = tasks.index(label.task)
        # Contiguous: a strided column would be summed in another order.
        columns = (logits[label.prediction], teacher, usable)
        student, scores, known = (column[:, t].contiguous() for column in columns)
        if label.loss == "cross_entropy":
            losses = cross_entropy(student, scores, known, label.temperature, label.amplification)
        elif label.loss == "mean_squared":
            losses = mean_squared(student, scores, known, label.temperature)
        else:
            compare = pairwise if label.loss == "pairwise" else listwise
            group = torch.zeros_like(known, dtype=torch.int64)
            if label.within == "user":
                assert users is not None, "a loss within users is told whose rows these are"
                group = users
            losses = compare(student, scores, known, group, label.temperature)
        total = total + label.weight * (losses.sum() / normaliser[t].clamp(min=1.0))
    return total


def cross_entropy(
    logits: Float[Tensor, " B"],
    teacher: Float[Tensor, " B"],
    usable: Bool[Tensor, " B"],
    temperature: float = 1.0,
    amplification: float = 1.0,
) -> Float[Tensor, " B"]:
    """Cross-entropy on the teacher's softened and amplified probability.

    ℓ_b = h(z_b / T, min(1, α · σ(logit(ŷ_F,b) / T)))

    Paper: ExFM, h(ŷ_D, min(1, α ŷ_F)); Hinton, Vinyals and Dean (arXiv 1503.02531), temperature.
    Differs: the gradient is not multiplied by T².
    """
    softened = torch.sigmoid(torch.logit(teacher) / temperature)
    targets = (amplification * softened).clamp(max=1.0)
    zero = logits.new_zeros(())
    # Both sides are replaced before the loss: masking a NaN later leaves its gradient.
    losses = binary_cross_entropy_with_logits(
        torch.where(usable, logits / temperature, zero),
        torch.where(usable, targets, zero),
        reduction="none",
    )
    return losses * usable


def mean_squared(
    logits: Float[Tensor, " B"],
    teacher: Float[Tensor, " B"],
    usable: Bool[Tensor, " B"],
    temperature: float = 1.0,
) -> Float[Tensor, " B"]:
    """Squared distance of the log-odds.

    ℓ_b = ((z_b − logit(ŷ_F,b)) / T)²

    Unlike that of probabilities, its gradient does not vanish where both are nearly certain.

    Paper: Ba and Caruana (arXiv 1312.6184), regression on logits.
    Differs: the temperature.
    """
    student, scores = _log_odds(logits, teacher, usable)
    return ((student - scores) / temperature).square()


def pairwise(
    logits: Float[Tensor, " B"],
    teacher: Float[Tensor, " B"],
    usable: Bool[Tensor, " B"],
    group: Int64[Tensor, " B"],
    temperature: float = 1.0,
) -> Float[Tensor, " B"]:
    """Cross-entropy on which of two rows of a group the teacher prefers, and how clearly.

    ℓ_b = ½ · mean_{c ≠ b in b's group} h((z_b − z_c) / T, σ((t_b − t_c) / T)),  t = logit(ŷ_F)

    Every pair occurs twice, hence the half. Only differences count, so that a bias of the teacher
    teaches nothing. With a low T it is the logistic loss on the pairs as the teacher orders them.

    Paper: RankNet (Burges et al., ICML 2005), equation 3, the teacher's preference in place of a
        label's; RankDistil (Reddi et al., AISTATS 2021), order as what is distilled.
    Differs: all pairs of a group instead of the teacher's first k; a mean over a row's partners, so
        that large groups weigh no more per row.

    Args:
        logits: Log-odds of the student.
        teacher: Probabilities of the teacher, anything where not usable.
        usable: Rows that take part.
        group: Rows of equal numbers are compared.
        temperature: T.
    """
    student, scores = _log_odds(logits, teacher, usable)
    together = _together(usable, group)
    together.fill_diagonal_(False)
    losses = binary_cross_entropy_with_logits(
        (student[:, None] - student[None, :]) / temperature,
        torch.sigmoid((scores[:, None] - scores[None, :]) / temperature),
        reduction="none",
    )
    partners = together.sum(1).clamp(min=1)
    return 0.5 * (losses * together).sum(1) / partners


def listwise(
    logits: Float[Tensor, " B"],
    teacher: Float[Tensor, " B"],
    usable: Bool[Tensor, " B"],
    group: Int64[Tensor, " B"],
    temperature: float = 1.0,
) -> Float[Tensor, " B"]:
    """Divergence of the student's softmax over a group from the teacher's.

    ℓ_b = n_g · p_b (ln p_b − ln q_b),  p = softmax_g(t / T),  q = softmax_g(z / T),  t = logit(ŷ_F)

    A group's rows add up to n_g · KL(p ‖ q) for its n_g rows, so that a row's gradient is as large
    as that of a loss of its own; a group of one row adds nothing. A bias of the teacher teaches
    nothing.

    Paper: ListNet (Cao et al., ICML 2007), top-one probabilities, the teacher's in place of the
        labels'.
    Differs: the teacher's entropy is taken off, and groups weigh as many as their rows.

    Args:
        logits: Log-odds of the student.
        teacher: Probabilities of the teacher, anything where not usable.
        usable: Rows that take part.
        group: Rows of equal numbers are one list.
        temperature: T.
    """
    student, scores = _log_odds(logits, teacher, usable)
    # A row that takes no part is a list of its own: p = q = 1.
    together = _together(usable, group)
    together.fill_diagonal_(True)
    apart = torch.where(together, 0.0, -torch.inf)

    def log_softmax(values: Tensor) -> Tensor:
        return values - torch.logsumexp(values[None, :] + apart, dim=1)

    log_p, log_q = log_softmax(scores / temperature), log_softmax(student / temperature)
    return together.sum(1) * log_p.exp() * (log_p - log_q)


def _log_odds(logits: Tensor, teacher: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds of student and teacher, 0 where not usable."""
    zero = logits.new_zeros(())
    scores = torch.logit(teacher, eps=LOGIT_EPSILON)
    return torch.where(usable, logits, zero), torch.where(usable, scores, zero)


def _together(usable: Tensor, group: Tensor) -> Tensor:
    """Whether two rows are compared: bool, B x B."""
    return (group[:, None] == group[None, :]) & usable[:, None] & usable[None, :]
