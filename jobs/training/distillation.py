"""What a teacher adds to a batch's loss: mixed labels, soft labels, alignment, the adapter."""

from __future__ import annotations

from torch import Tensor

from jobs.training.reader import Piece
from model import losses
from model.distillation.debias import convert_negative_sampling
from model.distillation.mixing import mix_labels
from model.distillation.soft_losses import distillation_loss
from model.ranker import Student, StudentOutput
from model.representations.alignment import alignment_loss


def mixed_labels(student: Student, piece: Piece, share: float) -> Tensor:
    """Labels of a batch as the serving heads learn them.

    A score is of the longest window, so the labels of shorter ones stay as they are.

    Args:
        student: Says how much of the score a label takes.
        piece: The batch.
        share: Share of that, while distillation warms up.
    """
    mixing = student.distillation.label_mixing
    if mixing == 0.0:
        return piece.labels
    scores = _scores(student, piece)
    usable = losses.usable_scores(scores, piece.mask)
    if piece.window is not None:
        usable = usable & (piece.window == student.ranker.config.num_windows - 1)
    return mix_labels(piece.labels, scores, usable, share * mixing)


def distillation_terms(
    student: Student, output: StudentOutput, piece: Piece, share: float = 1.0
) -> Tensor:
    """The soft-label terms of a student's loss, and its adapter's own.

    Args:
        student: Says what is learnt.
        output: What it predicts of the batch.
        piece: The batch.
        share: Share of the weights, while distillation warms up; the adapter learns in full.
    """
    assert piece.num_scores is not None, "the reader of a student gives scores"
    scores, tasks = _scores(student, piece), student.ranker.config.tasks
    loss = share * distillation_loss(
        {"auxiliary": output.distill_logits, "serving": output.logits},
        scores,
        piece.mask,
        piece.num_scores,
        soft_labels=student.distillation.soft_labels,
        tasks=tasks,
        users=piece.users,
    )
    loss = loss + share * _alignment(student, output, piece)
    if student.adapter is None or output.adapted_distill_logits is None:
        return loss
    adapted = student.adapter(scores, piece.batch.domain)
    loss = loss + losses.adapter_loss(adapted, piece.labels, piece.mask, piece.num_scores)
    return loss + share * losses.adapted_distillation_loss(
        output.adapted_distill_logits,
        adapted,
        piece.mask,
        piece.num_scores,
        distilled=student.distillation.tasks,
        tasks=tasks,
    )


def _alignment(student: Student, output: StudentOutput, piece: Piece) -> Tensor:
    """The term that draws a student's representation towards the teacher's; 0 without one."""
    settings = student.distillation.alignment
    if settings is None or output.aligned is None:
        return output.logits.new_zeros(())
    assert piece.representation is not None and piece.num_representations is not None
    counts = piece.mask.any(dim=1)
    number = piece.num_representations.float()
    return alignment_loss(output.aligned, piece.representation, counts, number, settings)


def _scores(student: Student, piece: Piece) -> Tensor:
    """The scorer's probabilities as the student's sampling of negatives would have them."""
    assert piece.teacher is not None, "the reader of a student gives scores"
    sampling = student.distillation.negative_sampling
    if sampling is None:
        return piece.teacher
    return convert_negative_sampling(piece.teacher, sampling.teacher_ratio, sampling.student_ratio)
