"""How the models of a family are shaped, trained and taught: parts of `Recipe`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jobs.representation_settings import Alignment, RepresentationReading, UserVectorReading
from jobs.settings import Settings
from model.distillation.config import DistillationOptions, SoftLoss, check_losses
from model.heads_config import ChainConfig
from model.interaction.config import Interaction
from model.sequence.config import Downstream, TargetAttentionConfig
from model.sequence_config import InterFormerConfig


class LongSequence(Settings):
    """The upstream: parallel transformers over whole timelines, shared by all impressions."""

    windows: tuple[int | None, ...] = Field(default=(None,), min_length=1)
    """Tokens that a token of each branch attends to, itself included; null for all before it."""
    num_stages: int = Field(ge=1)
    """Stages; the branches merge after each, and there are fewer tokens in the next."""
    layers_per_stage: int = Field(default=1, ge=1)
    reduction: int = Field(default=2, ge=2)
    """Tokens that become one between two stages."""
    ffn_hidden: int = Field(ge=1)
    num_summary_tokens: int = Field(default=2, ge=1)
    """Summary tokens of each branch."""


class Network(Settings):
    """Sizes of a model. Symbols as in `model/config.py`."""

    width: int = Field(ge=4)
    """D."""
    table_dim: int = Field(ge=1)
    """Columns of every embedding table."""
    num_dense_tokens: int = Field(ge=1)
    """Tokens that the dense features become."""
    dense_hidden: int | None = Field(ge=1)
    """Hidden width of the MLP that makes the dense tokens; null for a linear map."""
    dense_pieces: int = Field(default=0, ge=0)
    """Pieces of its range that each dense feature is read in beside its value; 0 for that alone."""
    interaction: Interaction
    """The interaction stack, chosen by its `kind`."""
    head_hidden: tuple[int, ...]
    domain_heads: Literal["whole", "final_layer"] = "whole"
    """Whether a domain has whole heads of its own, or a final layer on hidden layers of all."""
    zipper: bool = False
    """Whether a label is learnt under the window that its impression was assigned (Lattice), by
    heads of that window; the longest is served and judged. Of all models of a family or of none."""
    chain: ChainConfig | None = None
    """Click and conversion as one chain (ESMM); tasks that stand alone if left out. Without a click
    nothing should convert: give the conversion's task `attribution: click_through`."""
    num_heads: int = Field(default=2, ge=1)
    """H of the attention over the timeline."""
    num_summary_tokens: int = Field(default=2, ge=1)
    """S."""
    num_events: int | None = None
    """Events read of the timeline; all N if left out; 0 for a model without history."""
    content: bool = False
    """Whether the vectors of content are read: the ad's as a token, and every event's item's."""
    downstream: Downstream = TargetAttentionConfig()
    """How the candidate reads the latest events, chosen by its `kind`."""
    upstream: LongSequence | None = None
    """The long sequence, which reads whole timelines; none if left out."""
    interformer: InterFormerConfig | None = None
    """The interleaving of sequence and features in every layer; none if left out."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _reads_a_history(self) -> Network:
        reads = self.upstream or self.interformer or self.downstream != TargetAttentionConfig()
        if self.num_events == 0 and reads:
            raise ValueError(
                "network.num_events: downstream, upstream and interformer read a history; found 0 "
                "events; leave num_events out, or leave them out"
            )
        return self


class Trial(Settings):
    """One setting of what tuning may change."""

    lr_dense: float = Field(gt=0)
    """Adam's learning rate."""
    lr_sparse: float = Field(gt=0)
    """Row-wise AdaGrad's learning rate, for embedding tables."""
    weight_decay: float = Field(default=0.0, ge=0)


class Debiasing(Settings):
    """A loss that corrects a chain's conversions for who clicked (ESCM²)."""

    kind: Literal["ips", "dr"] = "ips"
    """Inverse propensities alone, or doubly robust: with heads that expect the errors of
    conversions, which also stand for impressions without a click."""
    weight: float = Field(gt=0)
    """Weight beside the loss of the labels."""
    max_weight: float = Field(default=20.0, ge=1)
    """c: largest inverse propensity of a click."""


class NextEvent(Settings):
    """A loss that teaches the upstream to foretell each row's newest event."""

    field: Literal["item_id", "event_type", "surface"] = "item_id"
    """What of the event is foretold."""
    weight: float = Field(gt=0)
    """Weight beside the loss of the labels."""
    num_negatives: int = Field(default=128, ge=1)
    """Values that it is told apart from, drawn for each batch from what the batch foretells."""


class Training(Settings):
    """How a model is trained: one pass in time order."""

    network: Network
    batch_size: int = Field(ge=1)
    """B, over all workers together."""
    trials: tuple[Trial, ...] = Field(min_length=1)
    """Settings tried on a first run; the best by the NE of labels before they are learnt, over the
    last day of training, is kept for the family's life. The gate window takes no part."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of a first run's steps over which the learning rates rise linearly."""
    average_rows: int = Field(default=16_000, ge=1)
    """Rows over which the average of the dense weights reaches back; the average is served."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradient norm at which dense gradients are clipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What a step's products of matrices below the heads are computed in. Weights, optimisers,
    losses, and all that scores are in single precision either way."""
    debiasing: Debiasing | None = None
    """Beside the loss of a chain; none if left out."""
    next_event: NextEvent | None = None
    """A loss on the long sequence alone, beside that of the labels; none if left out."""
    seed: int = 0

    @model_validator(mode="after")
    def _losses_have_their_network(self) -> Training:
        if self.debiasing and self.network.chain is None:
            raise ValueError(
                "debiasing: it corrects the conversions of network.chain; found no chain; declare "
                "one, or leave debiasing out"
            )
        if self.next_event and self.network.upstream is None:
            raise ValueError(
                "next_event: the long sequence foretells; found no network.upstream; configure "
                "one, or leave next_event out"
            )
        return self


class SoftTerm(SoftLoss):
    """A loss on the teacher's scores, and the tasks that have it."""

    tasks: tuple[str, ...] = ()
    """Tasks that it teaches, where the student has them; all of the student if left out."""


class Distillation(DistillationOptions):
    """What a student learns from its scorer, in the shape of EasyRec's `kd` blocks: several losses,
    each with its tasks, prediction, weight and temperature. The student's twin has none of it."""

    terms: tuple[SoftTerm, ...] = (SoftTerm(),)
    """Losses on the scorer's scores."""
    adapter: bool = True
    """Whether a Student Adapter refits the scores to the newest outcomes."""
    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of a first run's steps over which the weights of `terms`, of the adapted scores and
    `label_mixing` rise linearly."""

    @model_validator(mode="after")
    def _check_terms(self) -> Distillation:
        check_losses(self.terms, self)
        return self


class Student(Settings):
    """A student model and how it is taught."""

    training: Training
    distillation: Distillation = Distillation()
    representation_history: RepresentationReading | None = None
    """What it reads of the user's earlier impressions as the teacher saw them; nothing if left
    out. So is what follows. All of it is distillation: a twin is given none."""
    alignment: Alignment | None = None
    """A loss on its representation of a row."""
    user_vector: UserVectorReading | None = None
    """The user's vector from the teacher's upstream."""
