"""Configurations of the interaction stacks, one `kind` each.

A stack is given n tokens of width d and puts out m: `num_output_tokens` says how many, and refuses
what cannot work.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from model.frozen import Frozen


class CrossLayerConfig(Frozen):
    """Attention of a Wukong layer over the inputs of the layers before it."""

    num_tokens: PositiveInt
    """Tokens that the input of each earlier layer is compressed to (m)."""
    num_heads: PositiveInt
    """Attention heads (H); they divide the token width."""


class WukongConfig(Frozen):
    """Wukong: stacked factorization machines."""

    kind: Literal["wukong"] = "wukong"
    """Which stack this is."""
    num_layers: PositiveInt
    """Stacked layers (l): interactions of orders 1 to 2^l exist after them."""
    num_fm_tokens: PositiveInt
    """Tokens that a layer's factorization machine block puts out (n_F)."""
    num_lcb_tokens: PositiveInt
    """Tokens that a layer's linear compress block puts out (n_L)."""
    rank: PositiveInt
    """Columns of the projection Y (k)."""
    mlp_hidden: tuple[PositiveInt, ...]
    """Hidden widths of the MLP after the factorization machine, and of the MLP that makes Y."""
    attentive: bool = True
    """Whether Y depends on the row (the paper's default) or is a fixed parameter."""
    cross_layer: CrossLayerConfig | None = None
    """Connections from earlier layers, or None for the paper's plain stack."""

    @model_validator(mode="after")
    def _check(self) -> "WukongConfig":
        if self.cross_layer and self.num_layers == 1:
            raise ValueError(
                "interaction.cross_layer: a layer looks back at earlier ones, so there must be two "
                "at least; found num_layers 1; add layers or leave cross_layer out"
            )
        return self

    def num_output_tokens(self, num_tokens: int, width: int) -> int:
        """Tokens of the last layer, n_F + n_L."""
        if self.cross_layer and width % self.cross_layer.num_heads:
            raise ValueError(
                f"interaction.cross_layer.num_heads: the heads must divide width {width}; found "
                f"{self.cross_layer.num_heads}; choose a divisor of the width"
            )
        return self.num_fm_tokens + self.num_lcb_tokens


class DcnV2Config(Frozen):
    """DCN-V2: a cross network and a deep network."""

    kind: Literal["dcnv2"] = "dcnv2"
    """Which stack this is."""
    num_cross_layers: PositiveInt
    """Cross layers (L_c): interactions of orders 1 to L_c + 1 exist after them."""
    deep_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Widths of the deep network; the token width divides the last."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the deep network reads the tokens beside the cross network, or what that puts out."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a hidden layer's outputs dropped in training; what the last layer puts out is the
    representation, on which the ranker's own dropout acts."""
    batch_norm: bool = False
    """Whether hidden layers are normalised over the batch, as public benchmarks do. The loss of a
    row then depends on the other rows of a worker's batch, so workers no longer add up to one."""

    def num_output_tokens(self, num_tokens: int, width: int) -> int:
        """Tokens of the deep network, and beside a parallel one those of the cross network."""
        deep = _tokens_of("deep_hidden", self.deep_hidden[-1], width)
        return deep + (num_tokens if self.structure == "parallel" else 0)


class DlrmConfig(Frozen):
    """DLRM: dot products of all pairs of tokens, then the top MLP."""

    kind: Literal["dlrm"] = "dlrm"
    """Which stack this is."""
    num_kept_tokens: int = Field(ge=0)
    """Last tokens that also pass the dot products unchanged: in the paper those of the dense
    columns, and the summaries of a history stand after them."""
    top_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Widths of the top MLP without its last layer, the head; the token width divides the last."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a hidden layer's outputs dropped in training; what the last layer puts out is the
    representation, on which the ranker's own dropout acts."""
    batch_norm: bool = False
    """Whether hidden layers are normalised over the batch, as public benchmarks do. The loss of a
    row then depends on the other rows of a worker's batch, so workers no longer add up to one."""

    def num_output_tokens(self, num_tokens: int, width: int) -> int:
        """Tokens that the top MLP's last width makes."""
        if self.num_kept_tokens > num_tokens or (num_tokens < 2 and self.num_kept_tokens == 0):
            raise ValueError(
                "interaction.num_kept_tokens: at most all tokens are kept, and a single token has "
                f"no pair and must be; found {self.num_kept_tokens} of {num_tokens}; change it"
            )
        return _tokens_of("top_hidden", self.top_hidden[-1], width)


class RankMixerConfig(Frozen):
    """RankMixer: multi-head token mixing and a feed-forward network per token."""

    kind: Literal["rankmixer"] = "rankmixer"
    """Which stack this is."""
    num_layers: PositiveInt
    """Stacked blocks (L)."""
    num_mixed_tokens: PositiveInt
    """Tokens (T), and heads of the mixing; they divide the token width."""
    expansion: PositiveInt
    """Hidden width of a token's feed-forward network, in token widths (k)."""

    def num_output_tokens(self, num_tokens: int, width: int) -> int:
        """The tokens that are mixed."""
        if width % self.num_mixed_tokens:
            raise ValueError(
                f"interaction.num_mixed_tokens: the tokens must divide width {width}; found "
                f"{self.num_mixed_tokens}; choose a divisor of the width"
            )
        return self.num_mixed_tokens


class MlpConfig(Frozen):
    """A plain deep network over all tokens (DNN)."""

    kind: Literal["mlp"] = "mlp"
    """Which stack this is."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Widths of the layers; the token width divides the last."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a hidden layer's outputs dropped in training; what the last layer puts out is the
    representation, on which the ranker's own dropout acts."""
    batch_norm: bool = False
    """Whether hidden layers are normalised over the batch, as public benchmarks do. The loss of a
    row then depends on the other rows of a worker's batch, so workers no longer add up to one."""

    def num_output_tokens(self, num_tokens: int, width: int) -> int:
        """Tokens that the last layer makes."""
        return _tokens_of("hidden", self.hidden[-1], width)


class LogisticConfig(Frozen):
    """No interaction: with linear tokens and heads the ranker is a logistic regression."""

    kind: Literal["logistic"] = "logistic"
    """Which stack this is."""

    def num_output_tokens(self, num_tokens: int, width: int) -> int:
        """The sum of all tokens is one token."""
        return 1


Interaction = Annotated[
    WukongConfig | DcnV2Config | DlrmConfig | RankMixerConfig | MlpConfig | LogisticConfig,
    Field(discriminator="kind"),
]
"""One of the stacks, told apart by its `kind`."""


def _tokens_of(name: str, last: int, width: int) -> int:
    if last % width:
        raise ValueError(
            f"interaction.{name}: the last layer is read as tokens, so width {width} must divide "
            f"it; found {last}; choose a multiple of the width"
        )
    return last // width
