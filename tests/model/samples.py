"""A small ranker and small batches, shared by the tests of this folder."""

from typing import Any

import torch

from model.batch import Batch, JaggedEvents
from model.config import (
    DistillationConfig,
    FieldConfig,
    HistoryConfig,
    RankerConfig,
    SoftLabel,
    TableConfig,
)
from model.interaction.config import WukongConfig


def wukong_config(**changes: Any) -> WukongConfig:
    """Two layers whose widths all differ, so that a swapped pair cannot go unseen."""
    values = {
        "num_layers": 2,
        "num_fm_tokens": 3,
        "num_lcb_tokens": 2,
        "rank": 4,
        "mlp_hidden": (7,),
    }
    return WukongConfig(**(values | changes))


def history_config(**changes: Any) -> HistoryConfig:
    """Two event fields, one of them sharing the candidate's table."""
    values = {
        "fields": (
            FieldConfig(name="item_id", table="item"),
            FieldConfig(name="event_type", table="event_type"),
        ),
        "num_dense": 2,
        "num_heads": 2,
        "num_summary_tokens": 3,
        "max_events": 16,
    }
    return HistoryConfig(**(values | changes))


def ranker_config(**changes: Any) -> RankerConfig:
    """Two domains, three tasks, a history, and tables narrower than the width."""
    values = {
        "width": 8,
        "tables": (
            TableConfig(name="item", num_rows=20, dim=5),
            TableConfig(name="user", num_rows=11, dim=4),
            TableConfig(name="event_type", num_rows=4, dim=3),
        ),
        "fields": (
            FieldConfig(name="ad_id", table="item"),
            FieldConfig(name="user_id", table="user"),
        ),
        "num_dense": 3,
        "num_dense_tokens": 2,
        "dense_hidden": 6,
        "interaction": wukong_config(),
        "history": history_config(),
        "domains": ("feed", "reels"),
        "tasks": ("click", "like", "buy"),
        "head_hidden": (9,),
    }
    return RankerConfig(**(values | changes))


def config_without_history() -> RankerConfig:
    """The same ranker on the row's own features."""
    return ranker_config(
        history=None,
        tables=(
            TableConfig(name="item", num_rows=20, dim=5),
            TableConfig(name="user", num_rows=11, dim=4),
        ),
    )


def distillation_config(**changes: Any) -> DistillationConfig:
    """One distilled task of three."""
    values = {"soft_labels": (SoftLabel(task="click", weight=1.0),)}
    return DistillationConfig(**(values | changes))


def make_batch(config: RankerConfig, lengths: tuple[int, ...], seed: int = 0) -> Batch:
    """Random rows with histories of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = {table.name: table.num_rows for table in config.tables}

    def indexes(fields: tuple[FieldConfig, ...], count: int) -> torch.Tensor:
        columns = [torch.randint(rows[f.table], (count,), generator=generator) for f in fields]
        return torch.stack(columns, dim=1)

    history = None
    if config.history is not None:
        history = JaggedEvents(
            indexes(config.history.fields, sum(lengths)),
            torch.randn(sum(lengths), config.history.num_dense, generator=generator),
            torch.tensor([0, *lengths]).cumsum(0),
        )
    return Batch(
        indexes(config.fields, len(lengths)),
        torch.randn(len(lengths), config.num_dense, generator=generator),
        torch.randint(len(config.domains), (len(lengths),), generator=generator),
        history,
    )


def select_rows(batch: Batch, rows: list[int]) -> Batch:
    """The given rows of a batch, in the given order."""
    history = batch.history
    if history is not None:
        starts, ends = history.offsets[:-1].tolist(), history.offsets[1:].tolist()
        events = [e for row in rows for e in range(starts[row], ends[row])]
        lengths = [ends[row] - starts[row] for row in rows]
        history = JaggedEvents(
            history.categorical[events],
            history.dense[events],
            torch.tensor([0, *lengths]).cumsum(0),
        )
    return Batch(batch.categorical[rows], batch.dense[rows], batch.domain[rows], history)
