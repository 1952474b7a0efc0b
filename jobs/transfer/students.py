"""One student in one pass over its rows, judged on a day before it learns it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import AdamW

from jobs.training_settings import Trial
from jobs.transfer.arms import TASK
from jobs.transfer.lessons import Lessons
from jobs.transfer.settings import OutOfTime
from model import losses
from model.config import RankerConfig
from model.distillation.config import DistillationConfig
from model.distillation.soft_losses import distillation_loss
from model.optim import WeightAverage, build_optimizers
from model.ranker import Ranker, Student

_WARM_UP_RATIO = 0.1
_AVERAGE_ROWS = 8_000
_JUDGED_ROWS = 4_096
_ADAPTER_RATE = 5.0
"""Learning rate of the adapter, in that of the student's dense weights (models.md 6.1)."""
_PRIOR_ROWS = 4_096


def learn(
    config: RankerConfig,
    distillation: DistillationConfig | None,
    trial: Trial,
    batch_size: int,
    seed: int,
    own: Lessons,
    judged: Sequence[Lessons],
    deadline: float,
) -> list[Tensor]:
    """Train a student in one pass, its weights averaged as those that the daily run serves.

    Paper: ExFM (arXiv 2502.17494).
    Differs: see `model.losses`; the second head's weight is that of the first; the adapter steps
        with the student, as in the daily run.

    Args:
        config: Shape of the student.
        distillation: How it is taught; None for a twin.
        trial: Learning rates.
        batch_size: B.
        seed: Of the initial weights.
        own: Rows that it learns, none of the last judged day.
        judged: Rows of successive days, each judged by weights that have learnt what came before
            it; the last two are the validation and the test day.
        deadline: Unix seconds at which to stop.

    Returns:
        Log-odds of the judged rows, day by day.

    Raises:
        OutOfTime: The deadline came first.
    """
    model = Student(config, distillation, seed) if distillation else Ranker(config, seed)
    ranker = model.ranker if isinstance(model, Student) else model
    before = [int((own.rows < day.rows[0]).sum()) for day in judged]
    num_before = before[-2]
    first = own.labels[: min(_PRIOR_ROWS, num_before)]
    model.set_prior(((first.sum(0) + 1) / (len(first) + 2))[None])
    if config.num_dense:
        ranker.fit_normalisers(own.dense[: len(first)])
    optimizers = _optimizers(model, trial)
    average = WeightAverage(ranker, _AVERAGE_ROWS / batch_size)
    warm_up = _WARM_UP_RATIO * num_before / batch_size
    told, step, start = [], 0, 0
    for day, end in zip(judged, before, strict=True):
        for low in range(start, end, batch_size):
            if time.time() > deadline:
                raise OutOfTime
            loss = _loss(model, own, low, min(low + batch_size, end))
            for optimizer, rate in optimizers:
                optimizer.zero_grad()
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (step + 1) / warm_up)
            loss.backward()
            for optimizer, _ in optimizers:
                optimizer.step()
            average.update(step)
            step += 1
        start = end
        told.append(judge(ranker, average, day))
    return told


def _optimizers(model: Ranker | Student, trial: Trial) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimisers with their learning rates; an adapter has one of its own."""
    adapter = model.adapter if isinstance(model, Student) else None
    others = nn.ModuleList(part for part in model.children() if part is not adapter)
    dense, sparse = build_optimizers(others, trial.lr_dense, trial.lr_sparse)
    found: list[tuple[torch.optim.Optimizer, float]] = [
        (dense, trial.lr_dense),
        (sparse, trial.lr_sparse),
    ]
    if adapter is not None:
        rate = _ADAPTER_RATE * trial.lr_dense
        found.append((AdamW(adapter.parameters(), lr=rate, weight_decay=0.0), rate))
    return found


def _loss(model: Ranker | Student, own: Lessons, low: int, high: int) -> Tensor:
    """Loss on the labels, and with a teacher those on its soft labels."""
    batch, labels = own.batch(low, high), own.labels[low:high]
    output = model(batch)
    mask = torch.ones_like(labels, dtype=torch.bool)
    rows = torch.tensor([float(high - low)])
    loss = losses.task_loss(output.logits, labels, mask, rows)
    if not isinstance(model, Student):
        return loss
    teacher, soft_labels = own.teacher[low:high], model.distillation.soft_labels
    scored = losses.usable_scores(teacher, mask).sum(0).float()
    logits = {"serving": output.logits, "auxiliary": output.distill_logits}
    loss = loss + distillation_loss(
        logits, teacher, mask, scored, soft_labels=soft_labels, tasks=(TASK,)
    )
    if model.adapter is None:
        return loss
    adapted = model.adapter(teacher, batch.domain)
    loss = loss + losses.adapter_loss(adapted, labels, mask, scored)
    assert output.adapted_distill_logits is not None
    second = losses.adapted_distillation_loss(
        output.adapted_distill_logits, adapted, mask, scored, distilled=(TASK,), tasks=(TASK,)
    )
    return loss + soft_labels[0].weight * second


@torch.no_grad()
def judge(ranker: Ranker, average: WeightAverage, judged: Lessons) -> Tensor:
    """Log-odds of the served, averaged weights."""
    ranker.eval()
    parts = [
        functional_call(
            ranker,
            average.averages,
            (judged.batch(low, min(low + _JUDGED_ROWS, len(judged.rows))),),
        ).logits[:, 0]
        for low in range(0, len(judged.rows), _JUDGED_ROWS)
    ]
    ranker.train()
    return torch.cat(parts)
