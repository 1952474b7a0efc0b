"""Configuration of one ranker, frozen and checked where fields meet."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from model.domain_config import DomainFFNConfig
from model.embedding_config import BagConfig, ContentConfig, FieldConfig, GroupConfig, TableConfig
from model.frozen import Frozen, refuse_duplicates
from model.heads_config import ChainConfig
from model.history_config import HistoryConfig
from model.interaction.config import Interaction
from model.representations.config import RepresentationHistoryConfig, UserVectorConfig


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
    dense_pieces: int = Field(default=0, ge=0)
    """Pieces of its range that each dense column is read in, beside its value; 0 for that alone."""
    interaction: Interaction
    """The interaction stack."""
    domain_ffn: DomainFFNConfig | None = None
    """A feed-forward layer per domain before the interaction; None for a ranker without one."""
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
    imputes_errors: bool = False
    """Whether heads expect the errors of the chain's conversions, for a doubly robust loss."""
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

    @property
    def matched_fields(self) -> tuple[tuple[int, int], ...]:
        """Columns of the row and of an event that point into the same table, by place; none where
        the downstream marks no matches."""
        if self.history is None or not self.history.marks_matches:
            return ()
        return tuple(
            (i, j)
            for i, own in enumerate(self.fields)
            for j, theirs in enumerate(self.history.fields)
            if own.table == theirs.table
        )

    def table_dim(self, field: FieldConfig) -> int:
        """Width of the rows that a field looks up."""
        return next(table.dim for table in self.tables if table.name == field.table)

    @model_validator(mode="after")
    def _check(self) -> "RankerConfig":
        refuse_duplicates("tables", (table.name for table in self.tables))
        named = (*self.fields, *self.bags, *self.content)
        refuse_duplicates("fields, bags and content", (each.name for each in named))
        refuse_duplicates("domains", self.domains)
        refuse_duplicates("tasks", self.tasks)
        self._check_tables()
        self._check_groups()
        if self.chain:
            self.chain.check(self.tasks)
        if self.imputes_errors and not self.chain:
            raise ValueError(
                "imputes_errors: the errors are those of a chain's conversions; found no chain; "
                "declare one, or leave imputes_errors out"
            )
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
        if self.history and self.history.marks_matches and not self.matched_fields:
            tables = [sorted({f.table for f in fs}) for fs in (self.fields, self.history.fields)]
            raise ValueError(
                "history.downstream.matches: a row and an event match where fields of both point "
                f"into one table; found tables {tables[0]} and {tables[1]}; let two share a table, "
                "or leave matches out"
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
        refuse_duplicates("groups", grouped)
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
            or self.dense_pieces
            or self.domain_ffn
            or any(group.hidden for group in self.groups)
        ):
            raise ValueError(
                "interaction.kind: a logistic ranker is linear, without history, head_hidden, "
                "dense_hidden, dense_pieces, domain_ffn and groups.hidden; found history "
                f"{'set' if self.history else None}, head_hidden {list(self.head_hidden)}, "
                f"dense_hidden {self.dense_hidden}, dense_pieces {self.dense_pieces}, domain_ffn "
                f"{'set' if self.domain_ffn else None}, groups "
                f"{[list(group.hidden) for group in self.groups]}; "
                "set None, (), None, 0, None and ()"
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
