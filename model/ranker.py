"""The ranker that serves as teacher and as student backbone, and the student around it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from model import attention, features, heads
from model.attention import EventEmbedding, TargetAttention
from model.batch import Batch
from model.config import DistillationConfig, RankerConfig
from model.embeddings import EmbeddingTables
from model.features import FeatureTokens
from model.heads import AuxiliaryHead, DomainTaskHeads, StudentAdapter
from model.interaction import kinds
from model.interaction.kinds import build_interaction


class RankerOutput(NamedTuple):
    """What a ranker says about each row."""

    logits: Float[Tensor, "B Y"]
    """Natural log-odds of each task."""
    representation: Float[Tensor, "B R"]
    """Flattened tokens under the heads."""


class StudentOutput(NamedTuple):
    """What a student says about each row; only `logits` is ever served."""

    logits: Float[Tensor, "B Y"]
    """Serving log-odds (ŷ_S)."""
    representation: Float[Tensor, "B R"]
    """Flattened tokens under the heads."""
    distill_logits: Float[Tensor, "B Y"]
    """Log-odds that learn from the teacher's soft labels (ŷ_D)."""
    adapted_distill_logits: Float[Tensor, "B Y"] | None
    """Log-odds that learn from the adapted soft labels (ŷ_D2); None without an adapter."""


class Ranker(nn.Module):
    """Feature tokens and summary tokens of the history interact; each domain has its own heads.

    X_0 = [FeatureTokens; TargetAttention(FeatureTokens, events)]
    r   = flatten(interaction(X_0)),  z = heads_domain(r)

    Paper: Wukong, section 3.1; GEM (Meta engineering, 2025) for the history beside the features.
    Differs: the history enters as tokens of the first layer only.

    Args:
        config: Shape of the ranker.
        seed: Seed of every initial weight; the global random state is left as it was.

    Raises:
        ValueError: If the config has bags or content, which a `Batch` does not carry.
    """

    def __init__(self, config: RankerConfig, seed: int = 0) -> None:
        super().__init__()
        if config.bags or config.content:
            raise ValueError(
                "bags, content: a batch carries neither, so a ranker cannot read them; found "
                f"{[each.name for each in (*config.bags, *config.content)]}; leave them out"
            )
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tables = EmbeddingTables(config.tables)
            self.feature_tokens = FeatureTokens(config)
            self.events = EventEmbedding(config) if config.history else None
            self.attention = TargetAttention(config) if config.history else None
            self.interaction = build_interaction(
                config.interaction, config.num_tokens, config.width
            )
            self.dropout = nn.Dropout(config.dropout)
            self.heads = DomainTaskHeads(config)

    def fit_normalisers(
        self, dense: Float32[Tensor, "B N"], event_dense: Float32[Tensor, "E M"] | None = None
    ) -> None:
        """Fits the scaling of the dense columns once, before the first step of a new ranker.

        Args:
            dense: Dense columns of a sample of rows.
            event_dense: Dense columns of a sample of events; needed with a history.

        Raises:
            ValueError: If they are fitted already, or the sample is empty or absent.
        """
        if (event_dense is None) != (self.events is None):
            raise ValueError(
                "fit_normalisers: event_dense goes with a history; found "
                f"{'none' if event_dense is None else 'some'}; give it exactly when config.history "
                "is set"
            )
        self.feature_tokens.normaliser.fit(dense)
        if self.events is not None and event_dense is not None:
            self.events.normaliser.fit(event_dense)

    def set_prior(self, domain_task_rates: Float[Tensor, "P Y"]) -> None:
        """Starts every head at its base rate; see `DomainTaskHeads.set_prior`."""
        self.heads.set_prior(domain_task_rates)

    def represent(self, batch: Batch) -> Float[Tensor, "B R"]:
        """The flattened tokens under the heads."""
        embedded = self.tables(self.config.fields, batch.categorical)
        tokens = self.feature_tokens(embedded, batch.dense)  # B F D
        history = self.config.history
        if self.events is not None and self.attention is not None:
            assert history is not None
            assert batch.history is not None, "batch.history is missing; see check_batch"
            events = self.events(
                self.tables(history.fields, batch.history.categorical), batch.history.dense
            )
            summary = self.attention(tokens, events, batch.history.offsets)
            tokens = torch.cat([tokens, summary], dim=1)  # B F+S D
        return self.dropout(self.interaction(tokens).flatten(1))

    def forward(self, batch: Batch) -> RankerOutput:
        representation = self.represent(batch)
        return RankerOutput(self.heads(representation, batch.domain), representation)


class Student(nn.Module):
    """A ranker that also learns from a teacher; what is served is the ranker alone.

    ŷ_S from the ranker's heads; ŷ_D, and with an adapter ŷ_D2, from auxiliary heads beside them

    With `head = "serving"` there are no auxiliary heads and ŷ_D is ŷ_S: plain distillation.
    A student's twin is `Ranker(config, seed)`: their shared weights start bit-identical.

    Paper: ExFM (arXiv 2502.17494), auxiliary head and student adapter.
    Differs: none beyond the parts.

    Args:
        config: Shape of the served ranker.
        distillation: How it learns from the teacher.
        seed: Seed of every initial weight; the ranker's depend on nothing else.

    Raises:
        ValueError: If a soft label names a task that the ranker does not have.
    """

    def __init__(
        self, config: RankerConfig, distillation: DistillationConfig, seed: int = 0
    ) -> None:
        super().__init__()
        for label in distillation.soft_labels:
            if label.task not in config.tasks:
                raise ValueError(
                    f"distillation.soft_labels: a task must be one of {list(config.tasks)}; found "
                    f"{label.task!r}; correct the name or leave the soft label out"
                )
        self.ranker = Ranker(config, seed)
        self.distillation = distillation
        scale = distillation.gradient_scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            auxiliary = distillation.head == "auxiliary"
            self.distill_head = AuxiliaryHead(config, scale) if auxiliary else None
            self.adapted_distill_head = (
                AuxiliaryHead(config, scale) if distillation.adapter else None
            )
            self.adapter = StudentAdapter(config, distillation) if distillation.adapter else None

    def set_prior(self, domain_task_rates: Float[Tensor, "P Y"]) -> None:
        """Starts serving and auxiliary heads at the base rates."""
        self.ranker.set_prior(domain_task_rates)
        for head in (self.distill_head, self.adapted_distill_head):
            if head is not None:
                head.heads.set_prior(domain_task_rates)

    def forward(self, batch: Batch) -> StudentOutput:
        logits, representation = self.ranker(batch)
        return StudentOutput(
            logits,
            representation,
            self.distill_head(representation, batch.domain) if self.distill_head else logits,
            self.adapted_distill_head(representation, batch.domain)
            if self.adapted_distill_head
            else None,
        )


def num_parameters(config: RankerConfig) -> int:
    """Parameters of a `Ranker`, in closed form, embedding tables included."""
    return (
        sum(table.num_rows * table.dim for table in config.tables)
        + features.num_parameters(config)
        + attention.num_parameters(config)
        + kinds.num_parameters(config.interaction, config.num_tokens, config.width)
        + heads.num_parameters(config)
    )


def flops(config: RankerConfig, num_events: float) -> float:
    """Forward FLOPs of a `Ranker` for one row; a training step takes about three times as many.

    A multiply-add counts 2. Padding, look-ups, norms and activations are left out.

    Args:
        config: The ranker's configuration.
        num_events: Events of the row's history, or their mean over rows.
    """
    return (
        features.flops(config)
        + attention.flops(config, num_events)
        + kinds.flops(config.interaction, config.num_tokens, config.width)
        + heads.flops(config)
    )
