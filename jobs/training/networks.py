"""From configured sizes and packed inputs to the shape of a model."""

from __future__ import annotations

from jobs.config import Distillation, LongSequence, Network, Timeline
from jobs.training.inputs import InputSpec
from model.config import (
    DistillationConfig,
    FieldConfig,
    HistoryConfig,
    RankerConfig,
    SoftLabel,
    TableConfig,
)
from model.sequence_config import BranchConfig, UpstreamConfig


def ranker_config(
    network: Network, timeline: Timeline, spec: InputSpec, domains: list[str], tasks: list[str]
) -> RankerConfig:
    """The shape of a model that reads all packed features.

    Args:
        network: Sizes.
        timeline: Says how long histories are.
        spec: What is packed.
        domains: Domains with heads of their own.
        tasks: Tasks to predict.
    """
    num_events = timeline.num_events if network.num_events is None else network.num_events
    history = None
    if num_events:
        history = HistoryConfig(
            fields=tuple(FieldConfig(name=n, table=t) for n, t in spec.event_fields.items()),
            num_dense=spec.num_event_dense,
            num_heads=network.num_heads,
            num_summary_tokens=network.num_summary_tokens,
            max_events=num_events,
            downstream=network.downstream,
            upstream=_upstream(network.upstream) if network.upstream else None,
            interformer=network.interformer,
        )
    fields = tuple(FieldConfig(name=name, table=name) for name in spec.categorical)
    read = {field.table for field in fields} | (
        set(spec.event_fields.values()) if history else set()
    )
    tables = tuple(
        TableConfig(name=name, num_rows=rows, dim=network.table_dim)
        for name, rows in spec.table_rows.items()
        if name in read
    )
    return RankerConfig(
        width=network.width,
        tables=tables,
        fields=fields,
        num_dense=len(spec.dense),
        num_dense_tokens=network.num_dense_tokens,
        dense_hidden=network.dense_hidden,
        interaction=network.interaction,
        history=history,
        domains=tuple(domains),
        tasks=tuple(tasks),
        head_hidden=network.head_hidden,
        domain_heads=network.domain_heads,
        dropout=network.dropout,
    )


def _upstream(sizes: LongSequence) -> UpstreamConfig:
    return UpstreamConfig(
        branches=tuple(BranchConfig(window=window) for window in sizes.windows),
        **sizes.model_dump(exclude={"windows"}),
    )


def distillation_config(distillation: Distillation, tasks: list[str]) -> DistillationConfig:
    """How a student learns every task's soft labels."""
    return DistillationConfig(
        soft_labels=tuple(
            SoftLabel(
                task=task,
                weight=distillation.weight,
                temperature=distillation.temperature,
                amplification=distillation.amplification,
            )
            for task in tasks
        ),
        gradient_scale=distillation.gradient_scale,
        adapter=distillation.adapter,
    )
