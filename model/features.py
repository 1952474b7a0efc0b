"""From looked-up rows, dense columns and given vectors to feature tokens of one width.

Paper: Wukong (arXiv 2403.02545), section 3.2 (embedding layer).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from model.config import RankerConfig
from model.embedding_config import FieldConfig, GroupConfig
from model.embeddings import DenseNormaliser
from model.mlp import MLP, mlp_flops, mlp_num_parameters
from model.piecewise import PiecewiseLinear


class FeatureTokens(nn.Module):
    """Brings every feature to the common width.

    X_0 = [tokens of fields and bags; tokens of groups; tokens of dense columns; content tokens]

    field or bag  reshape(P_c e_c), k_c × d;  P_c the identity where the table is k_c d wide
    group         MLP_g([e_c for c in g]), 1 × d
    dense         reshape(MLP([z; e])), z the standardised columns, e their pieces, if any
    content       W_v v + b_v, 1 × d;  v = 0 where the vector is missing

    Paper: Wukong, section 3.2.
    Differs: tables of another width are projected; the dense columns give several tokens; content
        vectors are ours (LLaTTE, arXiv 2601.20083, has them in the sequence).
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.width = config.width
        names = [field.name for field in (*config.fields, *config.bags)]
        self.own = [names.index(field.name) for field in config.token_fields]
        self.grouped = [[names.index(name) for name in group.fields] for group in config.groups]
        self.projections = nn.ModuleList(
            nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out, bias=False)
            for dim_in, dim_out in _projections(config)
        )
        self.normaliser = DenseNormaliser(config.num_dense)
        self.pieces = (
            PiecewiseLinear(config.num_dense, config.dense_pieces)
            if config.num_dense and config.dense_pieces
            else None
        )
        self.dense_mlp = MLP(_dense_widths(config)) if config.num_dense else None
        self.group_mlps = nn.ModuleList(MLP(_group_widths(config, g)) for g in config.groups)
        self.content = nn.ModuleList(nn.Linear(c.dim, config.width) for c in config.content)

    def fit(self, dense: Float32[Tensor, "B N"]) -> None:
        """Fits the scaling of the dense columns, and the pieces of their ranges, once.

        Raises:
            ValueError: If they are fitted already, or there is no row to fit on.
        """
        self.normaliser.fit(dense)
        if self.pieces is not None:
            self.pieces.fit(dense)

    def forward(
        self,
        embedded: Sequence[Float[Tensor, "B _"]],
        dense: Float32[Tensor, "B N"],
        content: Sequence[Float[Tensor, "B _"]] = (),
    ) -> Float[Tensor, "B F D"]:
        """Makes the tokens.

        Args:
            embedded: Rows of all fields and then of all bags, in the order of the config.
            dense: Dense columns; NaN where missing.
            content: Given vectors in the order of the config; NaN where missing.
        """
        flat = [
            projection(embedded[index])
            for projection, index in zip(self.projections, self.own, strict=True)
        ]
        flat += [
            mlp(torch.cat([embedded[index] for index in indexes], dim=1))
            for mlp, indexes in zip(self.group_mlps, self.grouped, strict=True)
        ]
        if self.dense_mlp is not None:
            columns = self.normaliser(dense)
            if self.pieces is not None:
                columns = torch.cat([columns, self.pieces(dense)], dim=1)
            flat.append(self.dense_mlp(columns))
        flat += [
            projection(vector.nan_to_num(0.0))
            for projection, vector in zip(self.content, content, strict=True)
        ]
        return torch.cat(flat, dim=1).unflatten(1, (-1, self.width))


def num_parameters(config: RankerConfig) -> int:
    """Trained numbers of `FeatureTokens`.

    dim_c · k_c d for each projection, (dim_v + 1) d for each content vector, and the MLPs.
    """
    projections = sum(dim_in * dim_out for dim_in, dim_out in _projections(config, trained=True))
    groups = sum(mlp_num_parameters(_group_widths(config, group)) for group in config.groups)
    dense = mlp_num_parameters(_dense_widths(config)) if config.num_dense else 0
    content = sum((vector.dim + 1) * config.width for vector in config.content)
    return projections + groups + dense + content


def flops(config: RankerConfig) -> int:
    """Forward FLOPs of `FeatureTokens` for one row: 2 · in · out for every product."""
    projections = sum(2 * a * b for a, b in _projections(config, trained=True))
    groups = sum(mlp_flops(_group_widths(config, group)) for group in config.groups)
    dense = mlp_flops(_dense_widths(config)) if config.num_dense else 0
    content = sum(2 * vector.dim * config.width for vector in config.content)
    return projections + groups + dense + content


def _projections(config: RankerConfig, trained: bool = False) -> list[tuple[int, int]]:
    """Widths in and out of each own field; only those that differ where `trained`."""
    pairs = [(config.table_dim(f), f.num_tokens * config.width) for f in config.token_fields]
    return [pair for pair in pairs if not trained or pair[0] != pair[1]]


def _group_widths(config: RankerConfig, group: GroupConfig) -> tuple[int, ...]:
    fields: dict[str, FieldConfig] = {f.name: f for f in (*config.fields, *config.bags)}
    total = sum(config.table_dim(fields[name]) for name in group.fields)
    return (total, *group.hidden, config.width)


def _dense_widths(config: RankerConfig) -> tuple[int, ...]:
    hidden = () if config.dense_hidden is None else (config.dense_hidden,)
    columns = config.num_dense * (1 + config.dense_pieces)
    return (columns, *hidden, config.num_dense_tokens * config.width)
