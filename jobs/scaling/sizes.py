"""The sizes of each model, in Wukong's order: layers first, then tokens, rank and MLPs together."""

from __future__ import annotations

from collections.abc import Mapping

from model.config import FieldConfig, HistoryConfig, RankerConfig, TableConfig
from model.interaction.config import DlrmConfig, Interaction, WukongConfig
from model.sequence_config import InterFormerConfig

MODELS = ("wukong", "dlrm", "interformer")
NUM_EVENTS, WIDTH = 16, 16
NUM_SUMMARY_TOKENS = 2
_WUKONG = (
    (1, 4, 4, (32,)),
    (4, 4, 4, (32,)),
    (4, 8, 8, (64,)),
    (4, 12, 8, (96,)),
    (4, 16, 12, (128,)),
    (4, 16, 16, (256,)),
)
"""l, n_F = n_L, k, and hidden widths of the MLPs."""
_DLRM = ((64, 64), (192, 64), (512, 192, 64), (640, 384, 64), (1024, 512, 64), (1536, 768, 64))
"""Widths of the top MLP, for about the FLOPs of Wukong's size."""
NUM_SIZES = len(_WUKONG)
EVENT_FIELDS = ("category", "event_type", "surface")
"""Columns of an event, each with a table of its name, shared with the row's column of that name."""


def interaction(model: str, size: int) -> Interaction:
    """The stack of a model at a size."""
    if model == "dlrm":
        return DlrmConfig(num_kept_tokens=NUM_SUMMARY_TOKENS, top_hidden=_DLRM[size])
    layers, tokens, rank, hidden = _WUKONG[size]
    return WukongConfig(
        num_layers=layers,
        num_fm_tokens=tokens,
        num_lcb_tokens=tokens,
        rank=rank,
        mlp_hidden=hidden,
    )


def ranker_config(
    model: str, size: int, fields: tuple[str, ...], table_rows: Mapping[str, int], num_domains: int
) -> RankerConfig:
    """The ranker of a model at a size.

    All read the same columns and the same latest events: `wukong` and `dlrm` through target
    attention alone, `interformer` also in every layer. Tables and tokens are as wide at every size,
    so only what interacts grows.

    Args:
        model: One of `MODELS`.
        size: From 0 to `NUM_SIZES` − 1.
        fields: Columns of a row, each with the table of its name.
        table_rows: Rows of each table, those of events included.
        num_domains: Domains with heads of their own.
    """
    interformer = InterFormerConfig(max_events=NUM_EVENTS) if model == "interformer" else None
    return RankerConfig(
        width=WIDTH,
        tables=tuple(
            TableConfig(name=name, num_rows=rows, dim=WIDTH) for name, rows in table_rows.items()
        ),
        fields=tuple(FieldConfig(name=name, table=name) for name in fields),
        num_dense=0,
        num_dense_tokens=0,
        dense_hidden=None,
        interaction=interaction(model, size),
        history=HistoryConfig(
            fields=tuple(FieldConfig(name=name, table=name) for name in EVENT_FIELDS),
            num_dense=0,
            num_heads=2,
            num_summary_tokens=NUM_SUMMARY_TOKENS,
            max_events=NUM_EVENTS,
            interformer=interformer,
        ),
        domains=tuple(f"domain_{i}" for i in range(num_domains)),
        tasks=("click",),
        head_hidden=(32,),
    )
