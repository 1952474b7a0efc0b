"""What each arm lets a student learn from, and the rankers that make it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jobs.scaling.stream import FIELDS
from jobs.transfer.rows import Rows
from jobs.transfer.settings import Arm, Capacity, Study
from model.config import FieldConfig, RankerConfig, TableConfig
from model.distillation.config import DistillationConfig, SoftLabel
from model.interaction.config import MlpConfig
from model.representations.config import RepresentationHistoryConfig, UserVectorConfig

TASK = "click"
_USER_TOKENS, _HISTORY_TOKENS = 4, 2


@dataclass(frozen=True)
class Means:
    """What a student has of its teacher, or, without one, of the users."""

    head: Literal["serving", "auxiliary"] | None = None
    """Which heads learn the soft labels; None for no soft labels."""
    adapter: bool = False
    vector: Literal["user", "matched", "row"] | None = None
    """A vector of the user; or what those of user and ad say together; or one of the row itself,
    which nobody can serve."""
    history: Literal["latest", "category"] | None = None
    """Which earlier rows' activations it reads: the latest, or those of the category."""
    counts: Literal["all", "category"] | None = None
    """The counts that the teacher reads, as they were when last refreshed; or of these only
    the ones of the ad's category, which say by themselves what counts."""

    @property
    def is_cached(self) -> bool:
        """Whether it reads what is cached of users."""
        vector = self.vector in ("user", "matched")
        return vector or self.history is not None or self.counts is not None

    @property
    def is_scores_alone(self) -> bool:
        """Whether soft labels are all that it has of its teacher."""
        return self.head is not None and self.vector is None and self.history is None


MEANS: dict[Arm, Means] = {
    "raw": Means(),
    "kd": Means("serving"),
    "auxiliary": Means("auxiliary"),
    "adapter": Means("auxiliary", adapter=True),
    "user_vector": Means("auxiliary", vector="user"),
    "matched": Means("auxiliary", vector="matched"),
    "full_matched": Means("auxiliary", adapter=True, vector="matched", history="category"),
    "history_latest": Means("auxiliary", history="latest"),
    "history": Means("auxiliary", history="category"),
    "full": Means("auxiliary", adapter=True, vector="user", history="category"),
    "vectors_alone": Means(vector="user", history="category"),
    "vector_alone": Means(vector="user"),
    "matched_alone": Means(vector="matched"),
    "history_alone": Means(history="category"),
    "row_vector": Means("auxiliary", vector="row"),
    "raw_counts": Means(counts="all"),
    "raw_crossed": Means(counts="category"),
}

_SHAPES: dict[Capacity, tuple[int, int, tuple[int, ...]]] = {
    "small": (4, 8, (32, 16)),
    "large": (8, 16, (128, 64, 32)),
    "counted": (8, 16, (128, 64, 32)),
}
"""Width of tables, of tokens (D), and of the layers of the network."""


def means_of(arm: Arm, capacity: Capacity) -> Means:
    """What an arm has: a `counted` student, twins too, reads crossed counts of its own."""
    means = MEANS[arm]
    return replace(means, counts="category") if capacity == "counted" else means


def student_config(study: Study, rows: Rows, capacity: Capacity, means: Means) -> RankerConfig:
    """A plain network on the row's own columns, and on what the means add to them."""
    dim, width, hidden = _SHAPES[capacity]
    vector = 0 if means.vector is None else 2 * study.latent_dim
    if means.vector == "row":
        vector = study.latent_dim
    num_counts = {"all": rows.counts.shape[1], "category": len(study.windows) + 1, None: 0}[
        means.counts
    ]
    return RankerConfig(
        width=width,
        tables=tuple(
            TableConfig(name=name, num_rows=rows.stream.table_rows[name], dim=dim)
            for name in FIELDS
        ),
        fields=tuple(FieldConfig(name=name, table=name) for name in FIELDS),
        num_dense=num_counts,
        num_dense_tokens=_USER_TOKENS if means.counts else 0,
        dense_hidden=None,
        interaction=MlpConfig(hidden=hidden),
        history=None,
        user_vector=UserVectorConfig(dim=vector, num_tokens=_USER_TOKENS) if vector else None,
        representation_history=RepresentationHistoryConfig(
            dim=study.latent_dim,
            max_length=study.history_length,
            pooling=study.pooling,
            num_tokens=_HISTORY_TOKENS,
        )
        if means.history
        else None,
        domains=("own",),
        tasks=(TASK,),
        head_hidden=(),
    )


def distillation_config(means: Means, weight: float) -> DistillationConfig | None:
    """How a student is taught; None without soft labels.

    With an adapter there are two heads for soft labels, so each has half of the weight: arms of
    equal weight are drawn towards the teacher alike.
    """
    if means.head is None:
        return None
    own = weight / 2 if means.adapter else weight
    return DistillationConfig(
        soft_labels=(SoftLabel(task=TASK, weight=own, prediction=means.head),),
        adapter=means.adapter,
    )
