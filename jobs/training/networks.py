"""From configured sizes and packed inputs to the shape of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.errors import ConfigError
from jobs.training_settings import Distillation, LongSequence, Network, Student, Training
from model.config import FieldConfig, HistoryConfig, RankerConfig, TableConfig
from model.distillation.config import DistillationConfig, DistillationOptions, SoftLabel, SoftLoss
from model.embedding_config import BagConfig, ContentConfig
from model.representations.config import (
    AlignmentConfig,
    RepresentationHistoryConfig,
    UserVectorConfig,
)
from model.sequence_config import BranchConfig, UpstreamConfig

if TYPE_CHECKING:
    # A machine that only trains needs neither contracts nor packed arrays to build a model.
    from jobs.config import RunConfig, Timeline
    from jobs.training.inputs import InputSpec


def ranker_config(
    network: Network,
    timeline: Timeline,
    spec: InputSpec,
    domains: list[str],
    tasks: list[str],
    content_dim: int | None = None,
    training: Training | None = None,
) -> RankerConfig:
    """The shape of a model that reads all packed features.

    Args:
        network: Sizes.
        timeline: Says how long histories are.
        spec: What is packed.
        domains: Domains with heads of their own.
        tasks: Tasks to predict.
        content_dim: Width of the packed vectors of content; None where there are none.
        training: Losses that need heads of their own; None for those of the labels alone.

    Raises:
        ConfigError: The network reads content and none is packed.
    """
    if network.content and content_dim is None:
        raise ConfigError(
            "network.content: no vectors are packed in this run; run jobs.embed_content and "
            "jobs.pack_examples, or leave network.content out"
        )
    num_events = timeline.num_events if network.num_events is None else network.num_events
    history = None
    if num_events:
        history = HistoryConfig(
            fields=tuple(FieldConfig(name=n, table=t) for n, t in spec.event_fields.items()),
            num_dense=spec.num_event_dense,
            content=_content("item_content", network, content_dim),
            num_heads=network.num_heads,
            num_summary_tokens=network.num_summary_tokens,
            max_events=num_events,
            downstream=network.downstream,
            upstream=_upstream(network.upstream) if network.upstream else None,
            interformer=network.interformer,
            next_event=training.next_event.field if training and training.next_event else None,
        )
    fields = tuple(FieldConfig(name=name, table=name) for name in spec.categorical)
    bags = tuple(BagConfig(name=name, table=name) for name in spec.bags)
    read = {field.table for field in (*fields, *bags)} | (
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
        bags=bags,
        content=_content("ad_content", network, content_dim),
        num_dense=len(spec.dense),
        num_dense_tokens=network.num_dense_tokens,
        dense_hidden=network.dense_hidden,
        dense_pieces=network.dense_pieces,
        interaction=network.interaction,
        history=history,
        domains=tuple(domains),
        tasks=tuple(tasks),
        head_hidden=network.head_hidden,
        domain_heads=network.domain_heads,
        num_windows=spec.num_windows(tasks) if network.zipper else 1,
        chain=network.chain,
        imputes_errors=bool(training and training.debiasing and training.debiasing.kind == "dr"),
        dropout=network.dropout,
    )


def with_stored(ranker: RankerConfig, config: RunConfig, student: Student) -> RankerConfig:
    """The shape of a student that also reads what the teacher keeps."""
    read: dict[str, Any] = {}
    if student.representation_history is not None:
        assert config.representation is not None, "Recipe keeps what is read"
        reading = student.representation_history
        read["representation_history"] = RepresentationHistoryConfig(
            dim=config.representation.dim,
            max_length=reading.length,
            **reading.model_dump(exclude={"length"}),
        )
    if student.user_vector is not None:
        read["user_vector"] = UserVectorConfig(
            dim=user_vector_dim(config.teacher.network), **student.user_vector.model_dump()
        )
    # Made anew, so that the fields are checked where they meet.
    return RankerConfig(**{**dict(ranker), **read})


def with_alignment(
    distillation: DistillationConfig, config: RunConfig, student: Student
) -> DistillationConfig:
    """How a student is taught that also learns from the teacher's representations."""
    if student.alignment is None:
        return distillation
    assert config.representation is not None, "Recipe keeps what is read"
    alignment = AlignmentConfig(dim=config.representation.dim, **student.alignment.model_dump())
    return distillation.model_copy(update={"alignment": alignment})


def user_vector_dim(network: Network) -> int:
    """Width of a user's vector from a network's upstream (U)."""
    upstream = network.upstream
    assert upstream is not None, "Recipe gives user vectors an upstream"
    return len(upstream.windows) * upstream.num_summary_tokens * network.width


def _content(name: str, network: Network, dim: int | None) -> tuple[ContentConfig, ...]:
    return (ContentConfig(name=name, dim=dim),) if network.content and dim is not None else ()


def _upstream(sizes: LongSequence) -> UpstreamConfig:
    return UpstreamConfig(
        branches=tuple(BranchConfig(window=window) for window in sizes.windows),
        **sizes.model_dump(exclude={"windows"}),
    )


def distillation_config(distillation: Distillation, tasks: list[str]) -> DistillationConfig:
    """How a student of these tasks learns; a term's other tasks are passed over."""
    return DistillationConfig(
        soft_labels=tuple(
            SoftLabel(task=task, **term.model_dump(include=set(SoftLoss.model_fields)))
            for term in distillation.terms
            for task in tasks
            if task in (term.tasks or tasks)
        ),
        **distillation.model_dump(include=set(DistillationOptions.model_fields)),
    )
