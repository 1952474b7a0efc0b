"""The ranker that serves as teacher and as student backbone, and the student around it."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from model import domain_ffn, features, heads, history, imputation, interformer
from model.batch import Batch, Timelines
from model.config import RankerConfig
from model.conversion import chained_log_odds
from model.distillation.config import DistillationConfig
from model.distillation.sharing import freeze, part_module
from model.domain_ffn import DomainFFN
from model.embeddings import EmbeddingTables
from model.features import FeatureTokens
from model.heads import AuxiliaryHead, DomainTaskHeads, StudentAdapter, ZipperHeads
from model.history import History
from model.imputation import ImputationHeads
from model.interaction import kinds
from model.interaction.kinds import build_interaction
from model.interformer import InterFormer
from model.outputs import RankerOutput, StudentOutput
from model.representations import costs as stored_costs
from model.representations.alignment import AlignmentHead
from model.representations.history import RepresentationHistory
from model.representations.user_vector import UserVectorTokens

_MAX_CONVERSION_RATE = 0.95
"""No conversion of a fresh chain is surer than this, however rare the counted clicks are."""


class Ranker(nn.Module):
    """Feature tokens and summary tokens of the history interact; each domain has its own heads.

    X_f = [FeatureTokens; UserVectorTokens; RepresentationHistory],  the latter two where configured
    X_0 = [X_f; History(X_f, timelines)],  through the feed-forward layer of the row's domain where
          there is one
    r   = flatten(interaction(X_0)),  or flatten(InterFormer(X_0, events)) around its layers
    z   = heads_domain(r),  or logit(σ(z_click) σ(z)) for the conversions of a chain,  or those of
          the longest of several windows

    Paper: Wukong, section 3.1; GEM (Meta engineering, 2025) for the history beside the features;
        ESMM (arXiv 1804.07931), equation 1, for the chain; Lattice (arXiv 2512.09200) for windows.
    Differs: without InterFormer the history enters as tokens of the first layer only.

    Args:
        config: Shape of the ranker.
        seed: Seed of every initial weight; the global random state is left as it was.
    """

    def __init__(self, config: RankerConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # What products of matrices below the heads are computed in while it learns; evaluated, all
        # is in single precision.
        self.training_precision = torch.float32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tables = EmbeddingTables(config.tables)
            self.feature_tokens = FeatureTokens(config)
            self.history = History(config) if config.history else None
            interleaved = config.history is not None and config.history.interformer is not None
            self.interformer = InterFormer(config) if interleaved else None
            self.interaction = (
                None
                if interleaved
                else build_interaction(config.interaction, config.num_tokens, config.width)
            )
            self.dropout = nn.Dropout(config.dropout)
            several = config.num_windows > 1
            self.heads = (
                ZipperHeads(config, config.num_windows) if several else DomainTaskHeads(config)
            )
            # Made last, so that all other weights start as they do without.
            self.imputation = ImputationHeads(config) if config.imputes_errors else None
            # Last, so that what a ranker without them has starts alike as far as its shape is.
            self.user_vector = (
                UserVectorTokens(config.user_vector, config.width) if config.user_vector else None
            )
            earlier = config.representation_history
            self.representation_history = (
                RepresentationHistory(
                    earlier, config.width, stored_costs.num_candidate_tokens(config)
                )
                if earlier
                else None
            )
            self.domain_ffn = DomainFFN(config) if config.domain_ffn else None

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
        if (event_dense is None) != (self.history is None):
            raise ValueError(
                "fit_normalisers: event_dense goes with a history; found "
                f"{'none' if event_dense is None else 'some'}; give it exactly when config.history "
                "is set"
            )
        self.feature_tokens.fit(dense)
        if self.history is not None and event_dense is not None:
            self.history.events.normaliser.fit(event_dense)

    def set_prior(self, domain_task_rates: Float[Tensor, "*K P Y"]) -> None:
        """Starts every head at its base rate, of each window where there are several.

        See `DomainTaskHeads.set_prior`. A conversion of a chain starts at its rate over that of the
        click, at most 0.95.
        """
        rates, chain = domain_task_rates.clone(), self.config.chain
        if chain is not None:
            at = [self.config.tasks.index(task) for task in chain.conversions]
            click = rates[:, [self.config.tasks.index(chain.click)]]
            rates[:, at] = (rates[:, at] / click).clamp(max=_MAX_CONVERSION_RATE)
            if self.imputation is not None:
                self.imputation.set_prior(rates[:, at])
        self.heads.set_prior(rates)

    def represent(self, batch: Batch) -> Float[Tensor, "B R"]:
        """The flattened tokens under the heads."""
        return self._represent(batch)[0]

    def _represent(
        self, batch: Batch
    ) -> tuple[Float32[Tensor, "B R"], Float32[Tensor, " B"] | None]:
        """The representation, and the errors of foretelling if the batch asks for them."""
        if not self.training or self.training_precision == torch.float32:
            return self._computed(batch)
        with torch.autocast(batch.dense.device.type, self.training_precision):
            representation, errors = self._computed(batch)
        # Heads and losses are in single precision: log-odds to three digits would be too coarse.
        return representation.float(), None if errors is None else errors.float()

    def _computed(self, batch: Batch) -> tuple[Float[Tensor, "B R"], Float[Tensor, " B"] | None]:
        next_event_errors, events = None, None
        embedded = self.tables(self.config.fields, batch.categorical)
        pooled = self.tables.pool(self.config.bags, batch.bags)
        tokens = self.feature_tokens((*embedded, *pooled), batch.dense, batch.content)
        if self.user_vector is not None:
            assert batch.user_vector is not None, "batch.user_vector is missing; see check_batch"
            tokens = torch.cat([tokens, self.user_vector(batch.user_vector)], dim=1)
        if self.representation_history is not None:
            stored = batch.representations
            assert stored is not None, "batch.representations is missing; see check_batch"
            tokens = torch.cat(
                [tokens, self.representation_history(tokens, stored)], dim=1
            )  # B F D
        if self.history is not None:
            assert batch.history is not None, "batch.history is missing; see check_batch"
            events = self.history.embed(self.tables, batch.history)
            encoded = self.history.encode(events, batch.history)
            summary = self.history(tokens, events, encoded, batch.history, batch.categorical)
            tokens = torch.cat([tokens, summary], dim=1)  # B F+S D
            if batch.next_events is not None:
                next_event_errors = self.history.foretell(
                    encoded, batch.history, self.tables, batch.next_events
                )
        if self.domain_ffn is not None:
            tokens = self.domain_ffn(tokens, batch.domain)
        if self.interformer is not None:
            assert events is not None and batch.history is not None, "see RankerConfig"
            tokens = self.interformer(tokens, events, batch.history)
        if self.interaction is not None:
            tokens = self.interaction(tokens)
        return self.dropout(tokens.flatten(1)), next_event_errors

    def represent_user(self, timelines: Timelines) -> Float[Tensor, "B U"]:
        """The user at each row's cut-off, without any candidate: a vector to store and to reuse.

        Raises:
            ValueError: If the ranker has no upstream.
        """
        if self.history is None or self.history.upstream is None:
            raise ValueError(
                "represent_user: only a ranker with an upstream knows users apart from candidates; "
                "found config.history.upstream None; configure an upstream"
            )
        events = self.history.embed(self.tables, timelines)
        return self.history.upstream(events, timelines).flatten(1)

    def forward(self, batch: Batch) -> RankerOutput:
        representation, foretold = self._represent(batch)
        towers = self.heads(representation, batch.domain)
        if isinstance(self.heads, ZipperHeads):
            served = towers[:, -1]
            return RankerOutput(served, representation, served, towers, None, foretold)
        imputed = (
            self.imputation(representation, batch.domain)
            if self.imputation is not None and self.training
            else None
        )
        served = self._chained(towers)
        return RankerOutput(served, representation, towers, None, imputed, foretold)

    def _chained(self, towers: Float[Tensor, "B Y"]) -> Float[Tensor, "B Y"]:
        chain = self.config.chain
        if chain is None:
            return towers
        columns = dict(zip(self.config.tasks, towers.unbind(1), strict=True))
        columns |= {
            task: chained_log_odds(columns[chain.click], columns[task])
            for task in chain.conversions
        }
        return torch.stack(list(columns.values()), dim=1)


class Student(nn.Module):
    """A ranker that also learns from a teacher; what is served is the ranker alone.

    ŷ_S from the ranker's heads; ŷ_D, and with an adapter ŷ_D2, from auxiliary heads beside them

    Where no soft label teaches auxiliary heads there are none and ŷ_D is ŷ_S: plain distillation.
    Frozen parts get no gradient and do not gather statistics of batches. A student's twin is
    `Ranker(config, seed)`: their shared weights start bit-identical.

    Paper: ExFM (arXiv 2502.17494), auxiliary head and student adapter.
    Differs: none beyond the parts.

    Args:
        config: Shape of the served ranker.
        distillation: How it learns from the teacher.
        seed: Seed of every initial weight; the ranker's depend on nothing else.

    Raises:
        ValueError: If a soft label names a task, or `frozen` a part, that the ranker lacks.
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
            auxiliary = distillation.has_auxiliary_head
            self.distill_head = AuxiliaryHead(config, scale) if auxiliary else None
            self.adapted_distill_head = (
                AuxiliaryHead(config, scale) if distillation.adapter else None
            )
            self.adapter = StudentAdapter(config, distillation) if distillation.adapter else None
            alignment = distillation.alignment
            self.alignment_head = (
                AlignmentHead(alignment, config.representation_dim) if alignment else None
            )
        freeze(self.ranker, distillation.frozen)

    def train(self, mode: bool = True) -> "Student":
        """Sets the mode of all but the frozen parts, which stay as they are served."""
        super().train(mode)
        for part in self.distillation.frozen:
            self.ranker.get_submodule(part_module(part)).eval()
        return self

    def set_prior(self, domain_task_rates: Float[Tensor, "*K P Y"]) -> None:
        """Starts serving and auxiliary heads at the base rates, these at the longest window's."""
        self.ranker.set_prior(domain_task_rates)
        served = domain_task_rates if domain_task_rates.dim() == 2 else domain_task_rates[-1]
        for head in (self.distill_head, self.adapted_distill_head):
            if head is not None:
                head.heads.set_prior(served)

    def forward(self, batch: Batch) -> StudentOutput:
        logits, representation, *others = self.ranker(batch)
        return StudentOutput(
            logits,
            representation,
            self.distill_head(representation, batch.domain) if self.distill_head else logits,
            self.adapted_distill_head(representation, batch.domain)
            if self.adapted_distill_head
            else None,
            *others,
            aligned=self.alignment_head(representation) if self.alignment_head else None,
        )


def num_parameters(config: RankerConfig) -> int:
    """Parameters of a `Ranker`, in closed form, embedding tables included."""
    return (
        sum(table.num_rows * table.dim for table in config.tables)
        + features.num_parameters(config)
        + stored_costs.num_parameters(config)
        + history.num_parameters(config)
        + (domain_ffn.num_parameters(config) if config.domain_ffn else 0)
        + _stack_num_parameters(config)
        + config.num_windows * heads.num_parameters(config)
        + (imputation.num_parameters(config) if config.imputes_errors else 0)
    )


def flops(
    config: RankerConfig,
    num_events: float,
    rows_per_event: float = 1.0,
    num_representations: float = 0.0,
) -> float:
    """Forward FLOPs of a `Ranker` for one row; a training step takes about three times as many.

    A multiply-add counts 2. Padding, look-ups, norms and activations are left out, and so is the
    foretelling of next events.

    Args:
        config: The ranker's configuration.
        num_events: Events that a row reads, or their mean over rows.
        rows_per_event: Rows of a batch that read the same event, on average: what is computed once
            per event is shared by them.
        num_representations: Stored representations that a row reads, or their mean over rows.
    """
    return (
        features.flops(config)
        + stored_costs.flops(config, num_representations)
        + history.flops(config, num_events, rows_per_event)
        + (domain_ffn.flops(config) if config.domain_ffn else 0)
        + _stack_flops(config, num_events, rows_per_event)
        + config.num_windows * heads.flops(config)
        + (imputation.flops(config) if config.imputes_errors else 0)
    )


def _stack_num_parameters(config: RankerConfig) -> int:
    if config.history is None or config.history.interformer is None:
        return kinds.num_parameters(config.interaction, config.num_tokens, config.width)
    return interformer.num_parameters(config)


def _stack_flops(config: RankerConfig, num_events: float, rows_per_event: float) -> float:
    if config.history is None or config.history.interformer is None:
        return kinds.flops(config.interaction, config.num_tokens, config.width)
    longest = config.history.interformer.max_events
    return num_events * interformer.flops_per_event(
        config
    ) / rows_per_event + interformer.flops_per_row(config, min(num_events, longest))
