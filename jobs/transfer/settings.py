"""What the study of distillation measures, and how: nothing here knows the daily run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jobs.settings import Settings
from jobs.training_settings import Trial

Bias = Literal["unbiased", "over_predicting"]
"""Whether the teacher's log-odds are its own, or shifted so that it predicts too many clicks."""
Capacity = Literal["small", "large", "counted"]
"""Size of a student. A `counted` one is large and has counts of the user's actions about the ad's
category among its own features: what it is worth to be told by a teacher is then less."""
Arm = Literal[
    "raw",
    "kd",
    "auxiliary",
    "adapter",
    "user_vector",
    "matched",
    "full_matched",
    "history_latest",
    "history",
    "full",
    "vectors_alone",
    "vector_alone",
    "matched_alone",
    "history_alone",
    "row_vector",
    "raw_counts",
    "raw_crossed",
]
TWINS: tuple[Arm, ...] = ("raw", "raw_counts", "raw_crossed")
"""Arms without a teacher: they know no bias and no staleness."""


class OutOfTime(Exception):
    """The seconds of the run are used up."""


class Study(Settings):
    """The matrix of experiment E7, on one domain of a frozen world."""

    preset: str = "world-2"
    """A frozen world, from `jobs.simulation.PRESETS`."""
    num_days: int = Field(default=20, ge=4)
    """Days of it: the last is the test day, the one before it the validation day."""
    domain: int = Field(default=1, ge=0)
    """Domain of the students; teachers learn all."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the domain's rows that a student learns from."""
    first_day: int = Field(default=8, ge=1)
    """First day that is scored, and that a student learns."""
    staleness: tuple[int, ...] = (1, 7)
    """Days between the last day that a snapshot has learnt and the day that it scores."""
    biases: tuple[Bias, ...] = ("unbiased", "over_predicting")
    over_prediction: float = Field(default=1.15, gt=1)
    """Clicks that the biased teacher predicts, over those that the unbiased one does."""
    capacities: tuple[Capacity, ...] = ("small", "large", "counted")
    arms: tuple[Arm, ...] = (
        "raw",
        "kd",
        "auxiliary",
        "adapter",
        "user_vector",
        "history",
        "full",
    )
    """Arms that run with every teacher; `raw`, the twin, is needed by all others."""
    extras: tuple[Arm, ...] = (
        "history_latest",
        "matched",
        "full_matched",
        "vectors_alone",
        "row_vector",
        "raw_counts",
        "raw_crossed",
    )
    """Arms that run with the first bias and staleness alone, after all others."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the initial weights of teacher and students; every seed has a teacher of its own."""
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Weights of the soft labels beside the labels: every distilled arm is tuned over them."""
    trials: tuple[Trial, ...] = (
        Trial(lr_dense=5e-4, lr_sparse=0.03),
        Trial(lr_dense=1e-3, lr_sparse=0.03),
        Trial(lr_dense=1e-3, lr_sparse=0.1),
        Trial(lr_dense=3e-3, lr_sparse=0.1),
        Trial(lr_dense=3e-3, lr_sparse=0.3),
    )
    """Learning rates over which arms without a teacher are tuned; as many as there are weights. The
    other arms take those that the twin of their seed and capacity chose."""
    batch_size: int = Field(default=256, ge=1)
    """B of students."""
    teacher_trial: Trial = Trial(lr_dense=2e-3, lr_sparse=0.1)
    teacher_batch_size: int = Field(default=1024, ge=1)
    teacher_width: int = Field(default=16, ge=4)
    """D of teachers, whose tables are as wide."""
    teacher_layers: int = Field(default=2, ge=1)
    """Wukong layers of teachers."""
    windows: tuple[int, ...] = (8, 64, 512)
    """Latest actions of a user among which a teacher counts those of each category."""
    refresh_hours: int = Field(default=24, ge=1)
    """Hours between refreshes of what is cached of users: user vectors, histories of activations,
    and the counts of students that have some. Up to a day they are counted from midnight; of more
    days each user has its own, so that on any day there are vectors of every age."""
    delays: tuple[int, ...] = ()
    """Other hours between refreshes, with which the arms that read what is cached run too."""
    overlaps: tuple[float, ...] = ()
    """The arms that have soft labels alone run too with those of a domain student, of whose rows
    this share is of the students' domain; see `hierarchy`."""
    own_histories: bool = False
    """Whether teachers, and the arms that read counts without one, run too with counts of what
    users did on the row's own platform alone."""
    history_length: int = Field(default=32, ge=1)
    """L: latest compressed activations of a user that a student reads the mean of."""
    pooling: Literal["mean", "din"] = "mean"
    """How these become tokens."""
    latent_dim: int = Field(default=16, ge=2)
    """Width of a compressed activation, and of half a user vector."""

    @model_validator(mode="after")
    def _check(self) -> Study:
        if max(self.staleness) > self.first_day or min(self.staleness) < 1:
            raise ValueError(
                "staleness: a score is out of sample, by a snapshot that has learnt a day, so from "
                f"1 to first_day ({self.first_day}); found {list(self.staleness)}; score later days"
            )
        if self.first_day > self.num_days - 3:
            raise ValueError(
                "first_day: a student needs a day to learn before the validation and the test day "
                f"of {self.num_days}; found {self.first_day}; start earlier"
            )
        if len(self.trials) != len(self.weights):
            raise ValueError(
                "trials, weights: every arm is tuned over as many; found "
                f"{len(self.trials)} and {len(self.weights)}; give as many of both"
            )
        every = (self.refresh_hours, *self.delays)
        if any(24 % hours and hours % 24 for hours in every) or len({*every}) < len(every):
            raise ValueError(
                "refresh_hours, delays: different divisors or multiples of 24; found "
                f"{list(every)}; choose of 1, 6, 24 and 72"
            )
        if max(self.staleness) + (max(every) - 1) // 24 > self.first_day:
            raise ValueError(
                "refresh_hours, delays: a vector of the first scored day comes from a snapshot; "
                f"found {max(every)} hours, a staleness of {max(self.staleness)} and first_day "
                f"{self.first_day}; score later days"
            )
        if not all(0 <= overlap <= 1 for overlap in self.overlaps):
            raise ValueError(f"overlaps: shares from 0 to 1; found {list(self.overlaps)}")
        if self.arms[:1] != ("raw",):
            raise ValueError(
                f"arms: the twin 'raw' comes first; found {list(self.arms)}; put it there"
            )
        return self
