"""Configuration of distillation, without torch: recipes name these settings too."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from model.frozen import Frozen
from model.representations.config import AlignmentConfig


class SoftLoss(Frozen):
    """One loss on the teacher's scores, as a `kd` block of EasyRec says it."""

    loss: Literal["cross_entropy", "mean_squared", "pairwise", "listwise"] = "cross_entropy"
    """On a row's probability, on its log-odds, on the order of two rows, or of many."""
    prediction: Literal["auxiliary", "serving"] = "auxiliary"
    """Whether it teaches heads of its own, or the serving heads (plain distillation)."""
    weight: float = Field(default=1.0, ge=0.0)
    """Weight of the soft-label loss beside the label loss (w)."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Divides teacher and student log-odds alike before the loss (T)."""
    amplification: float = Field(default=1.0, gt=0.0)
    """Multiplies the teacher's probability, capped at 1, in cross-entropy (alpha)."""
    within: Literal["user", "batch"] = "user"
    """Which rows `pairwise` and `listwise` compare: those of a user, among whom an auction
    chooses, or all of the batch, where users have one row each."""

    @property
    def compares_rows(self) -> bool:
        """Whether a row's loss depends on other rows of the batch."""
        return self.loss in ("pairwise", "listwise")

    @model_validator(mode="after")
    def _check_loss(self) -> "SoftLoss":
        if self.loss != "cross_entropy" and self.amplification != 1.0:
            raise ValueError(
                "amplification: it acts on probabilities, that is with loss 'cross_entropy'; found "
                f"{self.amplification} with loss {self.loss!r}; leave it out"
            )
        if not self.compares_rows and self.within != "user":
            raise ValueError(
                "within: only losses 'pairwise' and 'listwise' compare rows; found "
                f"{self.within!r} with loss {self.loss!r}; leave it out"
            )
        return self


class SoftLabel(SoftLoss):
    """A loss on the teacher's scores of one task."""

    task: str
    """Task that the teacher scored, by name."""


class NegativeSampling(Frozen):
    """Share of the negatives that teacher and student were shown; all positives were."""

    teacher_ratio: float = Field(gt=0.0, le=1.0)
    """Negatives kept in the rows that the teacher learnt (r_T)."""
    student_ratio: float = Field(gt=0.0, le=1.0)
    """Negatives kept in the rows that the student learns (r_S)."""


class DistillationOptions(Frozen):
    """What is the same for all losses of a student."""

    gradient_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the distillation gradient where auxiliary heads pass it to the backbone (beta)."""
    adapter: bool = False
    """Whether a Student Adapter refits the teacher to the newest outcomes and teaches one more
    auxiliary head."""
    label_mixing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the teacher's score in the label of the serving heads (lambda)."""
    negative_sampling: NegativeSampling | None = None
    """Converts the teacher's scores to the student's sampling of negatives; as they are if left
    out."""
    initialised: tuple[str, ...] = ()
    """Parts that a first run takes over from the scorer and then trains: paths in `Ranker`, such as
    `tables.user_id` or `history`. None of the labels that the student learns may have taught them,
    so in a family's first run it begins where its scorer's first segment ends."""
    frozen: tuple[str, ...] = ()
    """Parts that a first run takes over likewise and that never change again; values admitted later
    read the out-of-vocabulary row of a frozen table."""

    @model_validator(mode="after")
    def _check_parts(self) -> "DistillationOptions":
        parts = sorted((*self.initialised, *self.frozen), key=lambda part: part.split("."))
        for part, other in pairwise(parts):
            if f"{other}.".startswith(f"{part}."):
                raise ValueError(
                    f"initialised, frozen: a part is named once; found {part!r} and {other!r}, "
                    "which is in it; leave out either"
                )
        if own := [part for part in parts if part.split(".")[0] == "heads"]:
            raise ValueError(
                "initialised, frozen: heads belong to a domain and its tasks and are not shared; "
                f"found {own}; leave them out"
            )
        return self


class DistillationConfig(DistillationOptions):
    """How one student learns from an external teacher."""

    soft_labels: tuple[SoftLabel, ...]
    """Losses on the teacher's scores; a task may have several."""
    adapter_hidden: tuple[PositiveInt, ...] = (16,)
    """Hidden widths of the student adapter."""
    alignment: AlignmentConfig | None = None
    """A loss on the representation itself; none if left out."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with a soft label, each once."""
        return tuple(dict.fromkeys(label.task for label in self.soft_labels))

    @property
    def has_auxiliary_head(self) -> bool:
        """Whether a soft label teaches heads of its own."""
        return any(label.prediction == "auxiliary" for label in self.soft_labels)

    @model_validator(mode="after")
    def _check(self) -> "DistillationConfig":
        check_losses(self.soft_labels, self)
        counted = Counter((x.task, x.loss, x.prediction) for x in self.soft_labels)
        if twice := [key for key, count in counted.items() if count > 1]:
            raise ValueError(
                "soft_labels: a task has a loss once on a prediction; found (task, loss, "
                f"prediction) {twice} more than once; add up their weights"
            )
        return self


def check_losses(losses: Sequence[SoftLoss], options: DistillationOptions) -> None:
    """Refuse options that no loss would make use of.

    Raises:
        ValueError: There is one.
    """
    auxiliary = options.adapter or any(loss.prediction == "auxiliary" for loss in losses)
    if options.gradient_scale != 1.0 and not auxiliary:
        raise ValueError(
            "gradient_scale: it acts on auxiliary heads; found "
            f"{options.gradient_scale} without any; choose prediction 'auxiliary', or leave it out"
        )
    if options.adapter and not losses:
        raise ValueError(
            "adapter: it corrects the scores of the distilled tasks; found none; add a loss, or "
            "set adapter to false"
        )
