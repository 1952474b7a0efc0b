"""Learning a batch: every label is predicted before it is learnt."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from jobs.config import Trial
from jobs.errors import ConfigError
from jobs.training.reader import Piece
from model import losses
from model.optim import Optimizers, WeightAverage
from model.ranker import Ranker, Student, StudentOutput


@dataclass
class Progress:
    """Sums behind the NE of predictions made before the update, per task."""

    num_rows: Tensor
    positives: Tensor
    loss: Tensor
    predicted: Tensor

    @classmethod
    def none(cls, num_tasks: int) -> Progress:
        """Nothing seen."""
        return cls(*(torch.zeros(num_tasks, dtype=torch.float64) for _ in range(4)))

    def add(self, logits: Tensor, labels: Tensor, mask: Tensor) -> None:
        """Add a batch that has been predicted and not yet learnt."""
        z, y = logits.detach().double(), labels.double().nan_to_num(0.0)
        loss = nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        self.num_rows += mask.double().sum(0)
        self.positives += (y * mask).sum(0)
        self.loss += (loss * mask).sum(0)
        self.predicted += (torch.sigmoid(z) * mask).sum(0)

    def stacked(self) -> Tensor:
        """All sums as one tensor, for adding over workers."""
        return torch.stack([self.num_rows, self.positives, self.loss, self.predicted])

    def ne(self) -> list[float]:
        """Normalised entropy per task; NaN where undefined."""
        n, y, loss = (x.numpy() for x in (self.num_rows, self.positives, self.loss))
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = y / n
            floor = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
            return (loss / n / floor).tolist()

    def calibration(self) -> list[float]:
        """Predicted over observed events per task."""
        return (self.predicted / self.positives).tolist()


@dataclass
class Learner:
    """A model with what it takes to learn a batch."""

    model: nn.Module
    """`Ranker` or `Student`, or DDP around one."""
    optimizers: Optimizers
    trial: Trial
    warmup_steps: int
    average: WeightAverage
    clip_norm: float
    num_tasks: int
    progress: Progress = field(init=False)
    num_steps: int = 0

    def __post_init__(self) -> None:
        self.progress = Progress.none(self.num_tasks)

    @property
    def bare(self) -> Ranker | Student:
        """The model without DDP."""
        return self.model.module if hasattr(self.model, "module") else self.model  # pyright: ignore[reportReturnType]

    def learn(self, piece: Piece, world: int) -> None:
        """Predict a batch, then learn it.

        Raises:
            ConfigError: The loss is not finite; nothing of this batch was learnt.
        """
        self.model.train()
        output = self.model(piece.batch)
        self.progress.add(output.logits, piece.labels, piece.mask)
        loss = losses.task_loss(output.logits, piece.labels, piece.mask, piece.num_labels)
        if isinstance(self.bare, Student):
            loss = loss + _distillation(self.bare, output, piece)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"training: the loss is {loss.item()} at step {self.num_steps}, rows "
                f"{piece.rows[:5].tolist()}…; lower the learning rate or look at these rows"
            )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        # DDP averages over workers; every worker has its share of the global batch's sum.
        (loss * world).backward()
        dense = [p for group in self.optimizers.dense.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_([p for p in dense if p.grad is not None], self.clip_norm)
        warm = min(1.0, (self.num_steps + 1) / max(1, self.warmup_steps))
        rates = (self.trial.lr_dense, self.trial.lr_sparse)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * warm
            optimizer.step()
        self.average.update(self.num_steps)
        self.num_steps += 1


def _distillation(student: Student, output: StudentOutput, piece: Piece) -> Tensor:
    """The soft-label terms of a student's loss, and its adapter's own."""
    assert piece.teacher is not None and piece.num_scores is not None
    named = {
        "soft_labels": student.distillation.soft_labels,
        "tasks": student.ranker.config.tasks,
    }
    loss = losses.distillation_loss(
        output.distill_logits, piece.teacher, piece.mask, piece.num_scores, **named
    )
    if student.adapter is None or output.adapted_distill_logits is None:
        return loss
    adapted = student.adapter(piece.teacher, piece.batch.domain)
    loss = loss + losses.adapter_loss(adapted, piece.labels, piece.mask, piece.num_scores)
    return loss + losses.adapted_distillation_loss(
        output.adapted_distill_logits, adapted, piece.mask, piece.num_scores, **named
    )
