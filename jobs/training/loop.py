"""Learning a batch: every label is predicted before it is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from jobs.errors import ConfigError
from jobs.training.distillation import distillation_terms, mixed_labels
from jobs.training.reader import Piece
from jobs.training_settings import Debiasing, NextEvent, Trial
from jobs.vocabulary import OUT_OF_VOCABULARY
from model import losses
from model.config import RankerConfig
from model.conversion import Outcomes, doubly_robust_loss, inverse_propensity_loss
from model.heads import zipper_logits
from model.optim import Optimizers, WeightAverage
from model.outputs import RankerOutput, StudentOutput
from model.ranker import Ranker, Student


class NotFinite(ConfigError):
    """A batch whose loss or gradient is not finite; nothing of it was learnt."""


@dataclass
class Progress:
    """Sums behind the NE of predictions made before the update, per task."""

    num_rows: Tensor
    positives: Tensor
    loss: Tensor
    predicted: Tensor
    num_foretold: Tensor
    """Next events, and below their losses, which have nothing to do with tasks: equal for all."""
    foretold_loss: Tensor

    @classmethod
    def none(cls, num_tasks: int) -> Progress:
        """Nothing seen."""
        return cls(*torch.zeros(6, num_tasks, dtype=torch.float64))

    @classmethod
    def of(cls, sums: Sequence[Sequence[float]]) -> Progress:
        """From sums as `stacked` orders them."""
        held = torch.tensor(sums, dtype=torch.float64)
        # Checkpoints from before next events were foretold have the first four.
        return cls(*torch.cat([held, held.new_zeros(6 - len(held), held.shape[1])]))

    def add(self, logits: Tensor, labels: Tensor, mask: Tensor) -> None:
        """Add a batch that has been predicted and not yet learnt."""
        z, y = logits.detach().double(), labels.double().nan_to_num(0.0)
        loss = nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        each = torch.stack([mask.double(), y * mask, loss * mask, torch.sigmoid(z) * mask])
        sums = each.sum(1).to(self.num_rows.device)
        for total, more in zip(self.parts()[:4], sums, strict=True):
            total.add_(more)

    def add_foretold(self, errors: Tensor) -> None:
        """Add the losses of next events that have been foretold and not yet learnt."""
        self.num_foretold += len(errors)
        self.foretold_loss += errors.detach().double().sum().item()

    def parts(self) -> tuple[Tensor, ...]:
        """The sums, in the order of `stacked`."""
        return tuple(getattr(self, part.name) for part in fields(self))

    def stacked(self) -> Tensor:
        """All sums as one tensor, for adding over workers."""
        return torch.stack(self.parts())

    def ne(self) -> list[float]:
        """Normalised entropy per task; NaN where undefined."""
        n, y, loss = (x.numpy() for x in (self.num_rows, self.positives, self.loss))
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = y / n
            floor = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
            return (loss / n / floor).tolist()

    def next_event_loss(self) -> float:
        """Mean cross-entropy of next events; NaN where none were foretold."""
        return float(self.foretold_loss[0] / self.num_foretold[0])

    def calibration(self) -> list[float]:
        """Predicted over observed events per task; NaN where none was observed."""
        observed = torch.where(self.positives > 0, self.positives, torch.nan)
        return (self.predicted / observed).tolist()


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
    seed: int
    """Of dropout, with the step and the rows."""
    debiasing: Debiasing | None = None
    """Of the conversions of a chain."""
    distillation_warmup_steps: int = 0
    """Steps over which the weight of distillation rises."""
    next_event: NextEvent | None = None
    """Of what the upstream foretells."""
    progress: Progress = field(init=False)
    num_steps: int = 0
    watched: list[tuple[np.ndarray, np.ndarray]] | None = None
    """Rows and the served model's probabilities of them, each before it was learnt; a list where
    they are wanted."""

    def __post_init__(self) -> None:
        self.progress = Progress.none(self.num_tasks)

    @property
    def bare(self) -> Ranker | Student:
        """The model without DDP."""
        return self.model.module if hasattr(self.model, "module") else self.model  # pyright: ignore[reportReturnType]

    @property
    def ranker(self) -> Ranker:
        """The model that is served."""
        return self.bare.ranker if isinstance(self.bare, Student) else self.bare

    def learn(self, piece: Piece, world: int) -> None:
        """Predict a batch, then learn it.

        Raises:
            NotFinite: The loss or its gradient is not finite; nothing of this batch was learnt.
            ConfigError: A loss compares rows of which other workers have some.
        """
        if not self.model.training:
            self.model.train()
        if self.ranker.config.dropout:
            # What is dropped depends on step and rows alone, so that a resumed run drops the same.
            entropy = (self.seed, self.num_steps, int(piece.rows[0]))
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        if self.watched is not None:
            self._watch(piece)
        output = self.model(piece.batch)
        taught, served = output.logits, piece.mask
        if output.window_logits is not None:
            assert piece.window is not None, "the reader of a model with windows gives them"
            taught = zipper_logits(output.window_logits, piece.window)
            served = piece.mask & (piece.window == output.window_logits.shape[1] - 1)
        labels, student, share = piece.labels, self.bare, self._distillation_share()
        if isinstance(student, Student):
            labels = mixed_labels(student, piece, share)
        loss = losses.task_loss(taught, labels, piece.mask, piece.num_labels)
        if self.debiasing is not None:
            loss = loss + _debiasing(self.debiasing, self.ranker.config, output, piece)
        if isinstance(student, Student):
            _refuse_several_workers(student, world)
            loss = loss + distillation_terms(student, output, piece, share)
        surprises = _surprises(output, piece)
        if self.next_event is not None and piece.num_next_events is not None:
            number = piece.num_next_events.clamp(min=1.0)
            loss = loss + self.next_event.weight * surprises.sum() / number
        self._check_finite("loss", loss, piece)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        # DDP averages over workers; every worker has its share of the global batch's sum.
        (loss * world).backward()
        dense = [p for group in self.optimizers.dense.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_([p for p in dense if p.grad is not None], self.clip_norm)
        self._check_finite("gradient's norm", norm, piece)
        self.progress.add(output.logits, piece.labels, served)
        self.progress.add_foretold(surprises)
        warm = min(1.0, (self.num_steps + 1) / max(1, self.warmup_steps))
        rates = (self.trial.lr_dense, self.trial.lr_sparse)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * warm
            optimizer.step()
        self.average.update(self.num_steps)
        self.num_steps += 1

    def _distillation_share(self) -> float:
        """Share of the weight of distillation at this step."""
        return min(1.0, (self.num_steps + 1) / max(1, self.distillation_warmup_steps))

    @torch.no_grad()
    def _watch(self, piece: Piece) -> None:
        """Keep what the model that is served, of averaged weights, says of a batch to be learnt."""
        assert self.watched is not None
        self.bare.eval()
        output = functional_call(self.bare, self.average.averages, (piece.batch,))
        self.bare.train()
        counts = piece.mask.any(dim=1).cpu().numpy()
        probabilities = torch.sigmoid(output.logits).cpu().numpy()
        self.watched.append((piece.rows[counts], probabilities[counts]))

    def _check_finite(self, what: str, value: Tensor, piece: Piece) -> None:
        if not torch.isfinite(value):
            raise NotFinite(
                f"training: the {what} is {value.item()} at step {self.num_steps}, rows "
                f"{piece.rows[:5].tolist()}…; lower the learning rate or look at these rows"
            )


def _refuse_several_workers(student: Student, world: int) -> None:
    compared = [x.loss for x in student.distillation.soft_labels if x.compares_rows]
    if compared and world > 1:
        raise ConfigError(
            f"distillation.terms: {', '.join(dict.fromkeys(compared))} compare rows of a batch, so "
            f"one worker has to have them all; found {world} workers; train in one process"
        )


def _surprises(output: RankerOutput | StudentOutput, piece: Piece) -> Tensor:
    """Losses of the next events that a batch asks for; none where it asks for none."""
    events = piece.batch.next_events
    if events is None:
        return output.logits.new_zeros(0)
    assert output.next_event_errors is not None, "the upstream foretells what the batch asks for"
    return output.next_event_errors[events.target != OUT_OF_VOCABULARY]


def _debiasing(
    settings: Debiasing, config: RankerConfig, output: RankerOutput | StudentOutput, piece: Piece
) -> Tensor:
    """The loss of a chain's conversions on clicked rows, corrected to stand for all.

    A click is learnt when its own window closes; here only its label is read, at a conversion's.
    """
    chain, towers = config.chain, output.tower_logits
    assert chain is not None, "debiasing goes with a chain; see Training"
    click = config.tasks.index(chain.click)
    clicks = piece.labels[:, click]
    total = towers.new_zeros(())
    for place, task in enumerate(map(config.tasks.index, chain.conversions)):
        outcomes = Outcomes(
            clicks=clicks.nan_to_num(0.0),
            conversions=piece.labels[:, task],
            mask=piece.mask[:, task] & ~clicks.isnan(),
            normaliser=piece.num_labels[task],
        )
        logits = towers[:, click], towers[:, task]
        if settings.kind == "ips":
            total = total + inverse_propensity_loss(*logits, outcomes, settings.max_weight)
        else:
            assert output.imputed_errors is not None, "a doubly robust loss has its heads"
            errors = output.imputed_errors[:, place]
            total = total + doubly_robust_loss(*logits, errors, outcomes, settings.max_weight)
    return settings.weight * total
