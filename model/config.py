"""Configuration of one ranker and of its distillation, frozen and checked where fields meet."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from model.embedding_config import BagConfig, ContentConfig, FieldConfig, GroupConfig, TableConfig
from model.frozen import Frozen
from model.heads_config import ChainConfig
from model.interaction.config import Interaction
from model.representations.config import (
    AlignmentConfig,
    RepresentationHistoryConfig,
    UserVectorConfig,
)
from model.sequence.config import Downstream, TargetAttentionConfig
from model.sequence_config import InterFormerConfig, UpstreamConfig


class HistoryConfig(Frozen):
    """The user's timeline and how it is read.

    Alone it is the downstream: the candidate reads the latest events. The GEM form adds the
    upstream, which reads the whole timeline once for all impressions, and InterFormer.
    """

    fields: tuple[FieldConfig, ...]
    """Categorical columns of one event."""
    num_dense: int = Field(ge=0)
    """Dense columns of one event, for example the log of its value."""
    content: tuple[ContentConfig, ...] = ()
    """Given vectors of one event, for example a text embedding of its item."""
    num_heads: PositiveInt
    """Heads (H) of every attention; they divide the ranker's width."""
    num_summary_tokens: PositiveInt
    """Queries made from the candidate, and tokens that the history adds (S)."""
    max_events: PositiveInt
    """Latest events that a row reads (N)."""
    downstream: Downstream = TargetAttentionConfig()
    """How the candidate reads them, chosen by its `kind`."""
    upstream: UpstreamConfig | None = None
    """The long sequence; its batches hold timelines from their first event on."""
    interformer: InterFormerConfig | None = None
    """The interleaving with the row's features; without it they meet in the interaction stack."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the history adds to the row's own."""
        upstream = self.upstream
        long = len(upstream.branches) * upstream.num_summary_tokens if upstream else 0
        return self.num_summary_tokens + long

    @model_validator(mode="after")
    def _check(self) -> "HistoryConfig":
        _refuse_duplicates(
            "history.fields and content", (each.name for each in (*self.fields, *self.content))
        )
        names = [field.name for field in self.fields]
        for branch in self.upstream.branches if self.upstream else ():
            if branch.field is not None and branch.field not in names:
                raise ValueError(
                    f"history.upstream.branches: a family's field must be one of {names}; found "
                    f"{branch.field!r}; correct the name"
                )
        if self.interformer and self.interformer.max_events > self.max_events:
            raise ValueError(
                f"history.interformer.max_events: at most history.max_events ({self.max_events}); "
                f"found {self.interformer.max_events}; shorten the sequence"
            )
        if several := [field.name for field in self.fields if field.num_tokens > 1]:
            raise ValueError(
                f"history.fields: an event is one token; found {several} with more than one; "
                "leave num_tokens out"
            )
        if not self.fields and not self.content and self.num_dense == 0:
            raise ValueError(
                "history: an event needs at least one column; found no fields and num_dense 0; "
                "name a field, or leave history out"
            )
        return self


class RankerConfig(Frozen):
    """One multi-domain, multi-task ranker: a teacher, or a student's backbone."""

    width: PositiveInt
    """Width of a token (D; d in Wukong)."""
    tables: tuple[TableConfig, ...]
    """Embedding tables that the fields point into."""
    fields: tuple[FieldConfig, ...]
    """Categorical columns outside the history."""
    bags: tuple[BagConfig, ...] = ()
    """Categorical columns with any number of values per row."""
    groups: tuple[GroupConfig, ...] = ()
    """Minor fields and bags that share a token; all others have tokens of their own."""
    content: tuple[ContentConfig, ...] = ()
    """Given vectors, one token each."""
    num_dense: int = Field(ge=0)
    """Dense columns outside the history."""
    num_dense_tokens: int = Field(ge=0)
    """Tokens made from the dense columns together; 0 exactly when there are none."""
    dense_hidden: PositiveInt | None
    """Hidden width of the MLP that makes the dense tokens; None for a linear map."""
    interaction: Interaction
    """The interaction stack."""
    history: HistoryConfig | None
    """The timeline, or None for a ranker without one."""
    user_vector: UserVectorConfig | None = None
    """A stored vector of the user, from another ranker's upstream; None if none is read."""
    representation_history: RepresentationHistoryConfig | None = None
    """What a teacher kept of the user's earlier rows; None if none of it is read."""
    domains: Annotated[tuple[str, ...], Field(min_length=1)]
    """Domains in the order of the batch's domain index; each has heads of its own."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Tasks in the order of the logit columns (Y)."""
    head_hidden: tuple[PositiveInt, ...]
    """Hidden widths of every head."""
    domain_heads: Literal["whole", "final_layer"] = "whole"
    """Whether a domain has whole heads of its own, or a final layer on hidden layers of all."""
    num_windows: PositiveInt = 1
    """Attribution windows with heads of their own (K); the longest is served."""
    chain: ChainConfig | None = None
    """Click and conversion as one chain, or None for tasks that stand alone."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the representation dropped before the heads in training."""

    @property
    def num_own_tokens(self) -> int:
        """Tokens of the row itself, before stored vectors add theirs."""
        own = sum(field.num_tokens for field in self.token_fields)
        return own + len(self.groups) + self.num_dense_tokens + len(self.content)

    @property
    def num_feature_tokens(self) -> int:
        """Tokens of the row and of stored vectors (F), before the history adds its own."""
        stored = (self.user_vector, self.representation_history)
        return self.num_own_tokens + sum(each.num_tokens for each in stored if each)

    @property
    def token_fields(self) -> tuple[FieldConfig, ...]:
        """Fields and bags with tokens of their own, in order: those that are in no group."""
        grouped = {name for group in self.groups for name in group.fields}
        return tuple(f for f in (*self.fields, *self.bags) if f.name not in grouped)

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the interaction stack (n_0 = F + S)."""
        return self.num_feature_tokens + (self.history.num_tokens if self.history else 0)

    @property
    def representation_dim(self) -> int:
        """Width of what the heads read: the flattened tokens of the stack, or of InterFormer."""
        interformer = self.history.interformer if self.history else None
        if interformer:
            return (interformer.num_cls_tokens + interformer.num_sequence_tokens) * self.width
        return self.interaction.num_output_tokens(self.num_tokens, self.width) * self.width

    def table_dim(self, field: FieldConfig) -> int:
        """Width of the rows that a field looks up."""
        return next(table.dim for table in self.tables if table.name == field.table)

    @model_validator(mode="after")
    def _check(self) -> "RankerConfig":
        _refuse_duplicates("tables", (table.name for table in self.tables))
        named = (*self.fields, *self.bags, *self.content)
        _refuse_duplicates("fields, bags and content", (each.name for each in named))
        _refuse_duplicates("domains", self.domains)
        _refuse_duplicates("tasks", self.tasks)
        self._check_tables()
        self._check_groups()
        if self.chain:
            self.chain.check(self.tasks)
        if self.chain and self.num_windows > 1:
            raise ValueError(
                "chain: its click and its conversions are of one window each; found num_windows "
                f"{self.num_windows}; leave out either"
            )
        if (self.num_dense == 0) != (self.num_dense_tokens == 0):
            raise ValueError(
                "num_dense_tokens: dense tokens exist exactly when dense columns do; found "
                f"num_dense {self.num_dense} with num_dense_tokens {self.num_dense_tokens}; "
                "set both or neither to 0"
            )
        if self.num_own_tokens == 0:
            raise ValueError(
                "fields: a row needs at least one feature; found no fields, bags or content and "
                "num_dense 0; add a field or a dense column"
            )
        if self.history and self.width % self.history.num_heads:
            raise ValueError(
                f"history.num_heads: the heads must divide width {self.width}; found "
                f"{self.history.num_heads}; choose a divisor of the width"
            )
        long = self.history and (self.history.upstream or self.history.interformer)
        if self.history and long and self.width // self.history.num_heads % 2:
            raise ValueError(
                "history.num_heads: rotary encoding turns pairs, so a head is of even width; found "
                f"width {self.width} with {self.history.num_heads} heads; choose fewer heads"
            )
        if self.domain_heads == "final_layer" and not self.head_hidden:
            raise ValueError(
                "domain_heads: a final layer of its own needs hidden layers to share; found "
                "'final_layer' with head_hidden (); choose 'whole' or add a hidden layer"
            )
        self.interaction.num_output_tokens(self.num_tokens, self.width)
        self._check_linear()
        return self

    def _check_groups(self) -> None:
        grouped = [name for group in self.groups for name in group.fields]
        _refuse_duplicates("groups", grouped)
        single = {field.name for field in (*self.fields, *self.bags) if field.num_tokens == 1}
        if wrong := sorted(set(grouped) - single):
            raise ValueError(
                "groups.fields: a group is made of fields and bags with one token each, one of "
                f"{sorted(single)}; found {wrong}; correct the names, or set their num_tokens to 1"
            )

    def _check_linear(self) -> None:
        if self.interaction.kind == "logistic" and (
            self.user_vector or self.representation_history
        ):
            raise ValueError(
                "interaction.kind: a logistic ranker reads no stored vectors; found user_vector or "
                "representation_history set; leave both out"
            )
        if self.interaction.kind == "logistic" and (
            self.history
            or self.head_hidden
            or self.dense_hidden is not None
            or any(group.hidden for group in self.groups)
        ):
            raise ValueError(
                "interaction.kind: a logistic ranker is linear, without history, head_hidden, "
                f"dense_hidden and groups.hidden; found history {'set' if self.history else None}, "
                f"head_hidden {list(self.head_hidden)}, dense_hidden {self.dense_hidden}, groups "
                f"{[list(group.hidden) for group in self.groups]}; set None, (), None and ()"
            )

    def _check_tables(self) -> None:
        tables = {table.name for table in self.tables}
        places = [(f"fields.{field.name}", field.table) for field in self.fields]
        places += [(f"bags.{bag.name}", bag.table) for bag in self.bags]
        if self.history:
            places += [
                (f"history.fields.{field.name}", field.table) for field in self.history.fields
            ]
        for place, table in places:
            if table not in tables:
                raise ValueError(
                    f"{place}: the table must be one of tables {sorted(tables)}; found {table!r}; "
                    "add the table or correct the name"
                )
        if unused := sorted(tables - {table for _, table in places}):
            raise ValueError(
                f"tables: every table must be used by a field; found unused {unused}; "
                "remove them or add the fields that read them"
            )


class SoftLabel(Frozen):
    """How one task learns from the teacher's probability for it."""

    task: str
    """Task that the teacher scored, by name."""
    weight: float = Field(ge=0.0)
    """Weight of the soft-label loss beside the label loss (w)."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Divides teacher and student log-odds alike before the loss."""
    amplification: float = Field(default=1.0, gt=0.0)
    """Multiplies the teacher's probability, capped at 1 (alpha)."""
    loss: Literal["cross_entropy"] = "cross_entropy"
    """Loss on the soft label."""


class DistillationConfig(Frozen):
    """How a student learns from an external teacher (ExFM)."""

    soft_labels: Annotated[tuple[SoftLabel, ...], Field(min_length=1)]
    """The tasks that are distilled."""
    gradient_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the distillation gradient where it enters the backbone (beta)."""
    head: Literal["auxiliary", "serving"] = "auxiliary"
    """Whether soft labels teach heads of their own, or the serving heads (plain distillation)."""
    adapter: bool = False
    """Whether a student adapter corrects the teacher and teaches one more auxiliary head."""
    adapter_hidden: tuple[PositiveInt, ...] = (16,)
    """Hidden widths of the student adapter."""
    alignment: AlignmentConfig | None = None
    """A loss on the representation itself; none if left out."""

    @model_validator(mode="after")
    def _check(self) -> "DistillationConfig":
        _refuse_duplicates("soft_labels", (label.task for label in self.soft_labels))
        if self.head == "serving" and (self.adapter or self.gradient_scale != 1.0):
            raise ValueError(
                "head: gradient_scale and adapter act on the auxiliary heads; found head 'serving' "
                f"with gradient_scale {self.gradient_scale} and adapter {self.adapter}; "
                "choose head 'auxiliary', or leave both at their defaults"
            )
        return self


def _refuse_duplicates(path: str, names: Iterable[str]) -> None:
    if duplicates := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(
            f"{path}: names must be unique; found {duplicates} more than once; rename them"
        )
