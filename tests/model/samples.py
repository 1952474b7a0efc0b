"""A small ranker and small batches, shared by the tests of this folder."""

from typing import Any

import torch

from model.batch import Batch, Timelines
from model.config import (
    FieldConfig,
    HistoryConfig,
    RankerConfig,
    TableConfig,
)
from model.distillation.config import DistillationConfig, SoftLabel
from model.embedding_config import BagConfig, ContentConfig, GroupConfig
from model.embeddings import Bag
from model.interaction.config import WukongConfig
from model.representations.config import RepresentationHistoryConfig, UserVectorConfig
from model.representations.stored import StoredRepresentations
from model.sequence_config import BranchConfig, InterFormerConfig, UpstreamConfig


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


def upstream_config(**changes: Any) -> UpstreamConfig:
    """Two stages of two branches, the tokens of the second being pairs."""
    values = {
        "branches": (BranchConfig(), BranchConfig(window=2)),
        "num_stages": 2,
        "layers_per_stage": 1,
        "ffn_hidden": 6,
        "num_summary_tokens": 2,
    }
    return UpstreamConfig(**(values | changes))


def interformer_config(**changes: Any) -> InterFormerConfig:
    """Both directions, every count different."""
    values = {"num_cls_tokens": 3, "num_pma_tokens": 1, "num_recent_tokens": 2, "max_events": 5}
    return InterFormerConfig(**(values | changes))


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


def rich_config() -> RankerConfig:
    """Bags, one of them in a group, and content vectors of rows and of events."""
    return ranker_config(
        bags=(
            BagConfig(name="seen", table="item"),
            BagConfig(name="tags", table="user", pooling="mean"),
        ),
        groups=(GroupConfig(fields=("user_id", "tags"), hidden=(5,)),),
        content=(ContentConfig(name="text", dim=6), ContentConfig(name="image", dim=2)),
        history=history_config(content=(ContentConfig(name="title", dim=3),)),
    )


def stored_config(**changes: Any) -> RankerConfig:
    """A user vector of two tokens, and earlier representations of three, weighed by DIN."""
    values = {
        "user_vector": UserVectorConfig(dim=5, num_tokens=2),
        "representation_history": RepresentationHistoryConfig(
            dim=6, max_length=4, pooling="din", hidden=(9,), num_tokens=3
        ),
        "head_hidden": (24,),
    }
    return ranker_config(**(values | changes))


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


HOUR_US = 3_600_000_000


def make_batch(
    config: RankerConfig,
    lengths: tuple[int, ...],
    seed: int = 0,
    rows: tuple[tuple[int, int], ...] | None = None,
) -> Batch:
    """Random rows that share timelines.

    Args:
        config: What reads the rows.
        lengths: Events of each segment.
        seed: Seed of every value.
        rows: Segment of each row, and how many events of it the row knows; if left out, each
            segment has one row, and it knows them all.
    """
    generator = torch.Generator().manual_seed(seed)
    extra = torch.Generator().manual_seed(seed + 1)
    sizes = {table.name: table.num_rows for table in config.tables}
    rows = tuple(enumerate(lengths)) if rows is None else rows

    def indexes(fields: tuple[FieldConfig, ...], count: int) -> torch.Tensor:
        columns = [torch.randint(sizes[f.table], (count,), generator=generator) for f in fields]
        return torch.stack(columns, dim=1)

    def vectors(configs: tuple[ContentConfig, ...], count: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(count, each.dim, generator=extra) for each in configs)

    def bag(config: BagConfig) -> Bag:
        held = torch.randint(4, (len(rows),), generator=extra)
        values = torch.randint(sizes[config.table], (int(held.sum()),), generator=extra)
        return Bag(values, torch.cat([torch.zeros(1, dtype=torch.int64), held.cumsum(0)]))

    user_vector, stored = None, None
    if config.user_vector is not None:
        user_vector = torch.randn(len(rows), config.user_vector.dim, generator=extra)
        user_vector[1::4] = torch.nan
    if config.representation_history is not None:
        held = torch.arange(len(rows)) % (config.representation_history.max_length + 1)
        number = int(held.sum())
        stored = StoredRepresentations(
            torch.rand(number, config.representation_history.dim, generator=extra) * 2 - 1,
            torch.randint(1, 100 * HOUR_US, (number,), generator=extra),
            torch.cat([torch.zeros(1, dtype=torch.int64), held.cumsum(0)]),
        )
    history = None
    if config.history is not None:
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        segment = torch.tensor([segment for segment, _ in rows], dtype=torch.int64)
        end = offsets[segment] + torch.tensor([known for _, known in rows], dtype=torch.int64)
        history = Timelines(
            categorical=indexes(config.history.fields, sum(lengths)),
            dense=torch.randn(sum(lengths), config.history.num_dense, generator=generator),
            event_us=(torch.rand(sum(lengths), generator=generator).cumsum(0) * HOUR_US).long(),
            offsets=offsets,
            segment=segment,
            start=torch.maximum(offsets[segment], end - config.history.max_events),
            end=end,
            row_us=(1 + sum(lengths) + torch.arange(len(rows))) * HOUR_US,
            content=vectors(config.history.content, sum(lengths)),
        )
    return Batch(
        indexes(config.fields, len(rows)),
        torch.randn(len(rows), config.num_dense, generator=generator),
        torch.randint(len(config.domains), (len(rows),), generator=generator),
        history,
        tuple(bag(each) for each in config.bags),
        vectors(config.content, len(rows)),
        user_vector=user_vector,
        representations=stored,
    )


def select_rows(batch: Batch, rows: list[int]) -> Batch:
    """The given rows of a batch, in the given order, each with a segment of its own.

    A segment ends at its row's cut-off, so that it holds nothing that the row may not see.
    """
    history = batch.history
    if history is not None:
        first = history.offsets[history.segment[rows]]
        lengths = history.end[rows] - first
        at = [
            e
            for f, n in zip(first.tolist(), lengths.tolist(), strict=True)
            for e in range(f, f + n)
        ]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        history = Timelines(
            categorical=history.categorical[at],
            dense=history.dense[at],
            event_us=history.event_us[at],
            offsets=offsets,
            segment=torch.arange(len(rows)),
            start=history.start[rows] - first + offsets[:-1],
            end=offsets[1:],
            row_us=history.row_us[rows],
            content=tuple(vectors[at] for vectors in history.content),
        )
    return Batch(
        batch.categorical[rows],
        batch.dense[rows],
        batch.domain[rows],
        history,
        tuple(_select_bags(bag, rows) for bag in batch.bags),
        tuple(vectors[rows] for vectors in batch.content),
        user_vector=None if batch.user_vector is None else batch.user_vector[rows],
        representations=(
            None if batch.representations is None else _select_stored(batch.representations, rows)
        ),
    )


def _select_stored(stored: StoredRepresentations, rows: list[int]) -> StoredRepresentations:
    at = [torch.arange(*stored.offsets[row : row + 2].tolist()) for row in rows]
    places = torch.cat(at)
    offsets = torch.tensor([0, *map(len, at)]).cumsum(0)
    return StoredRepresentations(stored.values[places], stored.age_us[places], offsets)


def _select_bags(bag: Bag, rows: list[int]) -> Bag:
    held = [bag.values[bag.offsets[row] : bag.offsets[row + 1]] for row in rows]
    return Bag(torch.cat(held), torch.tensor([0, *map(len, held)]).cumsum(0))


def moved(module: torch.nn.Module) -> set[str]:
    """Names of the parameters with a gradient other than zero."""
    return {
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.to_dense().abs().max() > 0
    }
