"""What models read, as arrays: examples and histories packed once per run.

`jobs.pack_examples` writes them below the run's folder; every training and scoring job maps them
into memory. Rows lie in order of time. No values are left, only numbers: rows of embedding tables,
dense features, labels, and where each row's history lies.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.contract import LogContract
from jobs.errors import ConfigError
from jobs.training import content as item_content
from jobs.training.bags import packed_bag, read_bag
from jobs.training.content import ItemContent
from jobs.training.dense import dense_features, dense_names, micros
from jobs.training.item_attributes import ItemAttributes, attribute_rows
from jobs.vocabulary import EVENT_TYPE, Vocabulary
from model.batch import Batch, Timelines

EVENT_FIELDS = {"item_id": "ad_id", "event_type": EVENT_TYPE, "surface": "surface"}
"""Categorical columns of every event in a timeline, and the embedding table each one reads."""

_MICROSECONDS = 1_000_000
_PREFIXES = "vocabulary.npz"
_ARRAYS = (
    "categorical",
    "dense",
    "labels",
    "mature_us",
    "event_us",
    "user",
    "domain",
    "vertical",
    "timeline",
    "history_end",
    "event_offsets",
    "event_categorical",
    "event_dense",
    "event_us_flat",
)


@dataclass(frozen=True)
class InputSpec:
    """Names of everything a model reads, in order."""

    categorical: list[str]
    dense: list[str]
    tasks: list[str]
    domains: list[str]
    verticals: list[str]
    """`<domain>-<vertical>`."""
    table_rows: dict[str, int]
    """Rows of each embedding table at `vocabulary_version`."""
    vocabulary_version: int | None
    evicted: dict[str, list[int]] = field(default_factory=dict)
    """Rows, by table, of the values that are out of vocabulary at that version."""
    table_digests: dict[str, str] = field(default_factory=dict)
    """Hash of which value has which row, by table."""
    item_attributes: list[str] = field(default_factory=list)
    """Attributes of its item that an event tells too, each read from the table of its name."""
    zipper_windows: dict[str, int] = field(default_factory=dict)
    """Attribution windows of each task that has several."""
    bags: list[str] = field(default_factory=list)
    """Columns with any number of values per row, each read from the table of its name."""

    def num_windows(self, tasks: Sequence[str]) -> int:
        """The most windows that one of the tasks has (K)."""
        return max(self.zipper_windows.get(task, 1) for task in tasks)

    @property
    def event_fields(self) -> dict[str, str]:
        """Categorical columns of an event, and the embedding table each one reads."""
        return EVENT_FIELDS | {name: name for name in self.item_attributes}

    @property
    def num_event_dense(self) -> int:
        """Dense features of an event: log value, whether its time is synthetic.

        Its age at an impression depends on the impression too, so the model makes it of both times.
        """
        return 2


def input_spec(contract: LogContract, vocabulary: Vocabulary) -> InputSpec:
    """What models of a contract read."""
    fields = [*contract.features.categorical, *contract.features.bags, EVENT_TYPE]
    return InputSpec(
        categorical=list(contract.features.categorical),
        dense=dense_names(contract.features),
        tasks=list(contract.tasks),
        domains=list(contract.domains),
        verticals=[f"{d}-{v}" for d, domain in contract.domains.items() for v in domain.verticals],
        table_rows={field: vocabulary.num_rows(field) for field in fields},
        vocabulary_version=vocabulary.version,
        evicted=dict(vocabulary.evicted),
        table_digests={field: f"{vocabulary.prefix_digests(field)[-1]:016x}" for field in fields},
        item_attributes=list(contract.timeline_item_attributes),
        zipper_windows={
            task: len(contract.tasks[task].zipper_windows) for task in contract.zipper_tasks
        },
        bags=list(contract.features.bags),
    )


class Packed:
    """The packed arrays of one run, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.spec = InputSpec(**meta["spec"])
        self.inputs: dict[str, int | None] = meta["inputs"]
        self.folder = folder
        # As plain arrays: every look-up in a memmap would make another memmap.
        arrays = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS
        }
        self.categorical = arrays["categorical"]
        self.dense = arrays["dense"]
        self.labels = arrays["labels"]
        self.mature_us = arrays["mature_us"]
        self.event_us = arrays["event_us"]
        self.user = arrays["user"]
        self.domain = arrays["domain"]
        self.vertical = arrays["vertical"]
        self.timeline = arrays["timeline"]
        self.history_end = arrays["history_end"]
        self.event_offsets = arrays["event_offsets"]
        self.event_categorical = arrays["event_categorical"]
        self.event_dense = arrays["event_dense"]
        self.event_us_flat = arrays["event_us_flat"]
        self.content = self._optional("content")
        """Vectors of items' content, float16, row 0 of zeros; None where none is declared."""
        self.content_row = self._optional("content_row")
        """Row of `content` of each example's ad, as known before the impression."""
        self.event_content_row = self._optional("event_content_row")
        """Row of `content` of each event's item, beside `event_us_flat`."""
        self.zipper_labels = self._optional("zipper_labels")
        """Labels under the windows that impressions were assigned, and the plain ones of tasks with
        a single window; None where no task has several. So are the two that follow."""
        self.zipper_mature_us = self._optional("zipper_mature_us")
        self.zipper_place = self._optional("zipper_place")
        """How many of the task's windows are longer than the assigned one: 0 for the longest."""

        self.bags = [read_bag(folder, name) for name in self.spec.bags]
        """Values of each column with any number of them, in the order of `spec.bags`."""

    def _optional(self, name: str) -> np.ndarray | None:
        path = self.folder / f"{name}.npy"
        return np.asarray(np.load(path, mmap_mode="r")) if path.exists() else None

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.event_us)

    def ids(self) -> pa.Table:
        """By row `impression_id`, `user_id` and `known_ts`, when the impression became known."""
        with pa.memory_map(str(self.folder / "ids.arrow")) as source:
            return pa.ipc.open_file(source).read_all()

    def impression_ids(self) -> pa.ChunkedArray:
        """Impression ids, by row."""
        return self.ids()["impression_id"]

    def reassigned_tables(self, rows: Mapping[str, int], digests: Mapping[str, str]) -> list[str]:
        """Tables whose rows have other values than an earlier vocabulary gave them to.

        Args:
            rows: Rows of each table at the earlier vocabulary.
            digests: Its `table_digests`.
        """
        with np.load(self.folder / _PREFIXES) as held:
            return [
                table
                for table, digest in digests.items()
                if f"{held[table][: rows[table]][-1]:016x}" != digest
            ]

    @property
    def content_dim(self) -> int | None:
        """Width of the vectors of content; None where none is packed."""
        return None if self.content is None else self.content.shape[1]

    def batch(
        self, rows: np.ndarray, max_events: int, *, whole: bool = False, content: bool = False
    ) -> Batch:
        """Rows as a model's input.

        Args:
            rows: Row numbers.
            max_events: N of the model; 0 for a model without history.
            whole: Whether a timeline is given from its first event on, for a model that reads all
                that was known; else from the first event that a row of the batch reads.
            content: Whether the vectors of content are given, zeros where an item has none.
        """
        return Batch(
            categorical=torch.from_numpy(self.categorical[rows].astype(np.int64)),
            dense=torch.from_numpy(self.dense[rows]),
            domain=torch.from_numpy(self.domain[rows].astype(np.int64)),
            history=self.history(
                self.timeline[rows],
                self.history_end[rows].astype(np.int64),
                self.event_us[rows],
                max_events,
                whole=whole,
                content=content,
            )
            if max_events
            else None,
            bags=tuple(bag.take(rows) for bag in self.bags),
            content=self._vectors(self.content_row, rows) if content else (),
        )

    def _vectors(self, row: np.ndarray | None, at: np.ndarray) -> tuple[torch.Tensor, ...]:
        assert self.content is not None and row is not None, "ranker_config asks for packed content"
        return (torch.from_numpy(self.content[row[at]].astype(np.float32)),)

    def history(
        self,
        timeline: np.ndarray,
        end: np.ndarray,
        row_us: np.ndarray,
        max_events: int,
        *,
        whole: bool = False,
        content: bool = False,
    ) -> Timelines:
        """Each timeline once: the union of what its readers read, up to the last one's cut-off.

        Args:
            timeline: Packed timeline of each reader.
            end: Events of it that the reader knows.
            row_us: When the reader reads it, in microseconds.
            max_events: As for `batch`; so are the others.
            whole: Whether a timeline is given from its first event on.
            content: Whether the vectors of content are given.
        """
        timelines, segment = np.unique(timeline, return_inverse=True)
        start = np.maximum(end - max_events, 0)
        last = np.zeros(len(timelines), np.int64)
        np.maximum.at(last, segment, end)
        first = np.zeros_like(last) if whole else last.copy()
        np.minimum.at(first, segment, start)
        offsets = np.concatenate([[0], np.cumsum(last - first)])
        # From a place in a timeline to one in this batch, and from there to the packed events.
        shift = offsets[:-1] - first
        packed = self.event_offsets[timelines] - shift
        at = np.arange(offsets[-1]) + np.repeat(packed, last - first)
        return Timelines(
            categorical=torch.from_numpy(self.event_categorical[at].astype(np.int64)),
            dense=torch.from_numpy(self.event_dense[at]),
            event_us=torch.from_numpy(self.event_us_flat[at]),
            offsets=torch.from_numpy(offsets),
            segment=torch.from_numpy(segment.astype(np.int64)),
            start=torch.from_numpy(start + shift[segment]),
            end=torch.from_numpy(end + shift[segment]),
            row_us=torch.from_numpy(row_us),
            content=self._vectors(self.event_content_row, at) if content else (),
        )

    def newest_events(self, rows: np.ndarray, field: str) -> np.ndarray:
        """Table index of a field of the newest event that each row knows; 0 where it knows none."""
        known = self.history_end[rows].astype(np.int64)
        found, some = np.zeros(len(rows), np.int64), known > 0
        at = self.event_offsets[self.timeline[rows[some]]] + known[some] - 1
        column = list(self.spec.event_fields).index(field)
        found[some] = self.event_categorical[at, column]
        return found

    def matured(self, start: datetime | None, end: datetime, *, zipper: bool = False) -> np.ndarray:
        """Which labels matured after `start` and by `end`: bool, rows x tasks.

        Args:
            start: After when; ever if None.
            end: By when.
            zipper: Whether labels under assigned windows are meant.
        """
        mature_us = self.zipper_mature_us if zipper else self.mature_us
        labels = self.zipper_labels if zipper else self.labels
        assert mature_us is not None and labels is not None, "Recipe asks for windows"
        after = mature_us > (_NEVER if start is None else to_us(start))
        return after & (mature_us <= to_us(end)) & ~np.isnan(labels)


_NEVER = np.iinfo(np.int64).min


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return round(moment.timestamp() * _MICROSECONDS)


def pack(
    folder: Path,
    examples: pa.Table,
    timelines: pa.Table,
    contract: LogContract,
    vocabulary: Vocabulary,
    inputs: Mapping[str, int | None],
    content: ItemContent | None = None,
    attributes: ItemAttributes | None = None,
) -> InputSpec:
    """Write packed arrays.

    Args:
        folder: Where to; what is there is replaced.
        examples: The examples table's columns, in any order of rows.
        timelines: The timelines table's columns, for the examples' users and days.
        contract: The log contract.
        vocabulary: Rows of values.
        inputs: Versions of the tables that were read.
        content: Content of the items; None where the contract declares none.
        attributes: Attributes of the events' items; None where the contract declares none.

    Returns:
        What was packed.

    Raises:
        ConfigError: There is no row.
    """
    if examples.num_rows == 0:
        raise ConfigError(
            "examples: a run needs at least one impression; found none on its days; "
            "run jobs.ingest_log and jobs.build_tables for them first"
        )
    spec = input_spec(contract, vocabulary)
    examples = examples.sort_by([("event_ts", "ascending"), ("impression_id", "ascending")])
    places = [
        f"{d}-{v}"
        for d, v in zip(
            examples["domain"].to_pylist(), examples["vertical"].to_pylist(), strict=True
        )
    ]
    arrays: dict[str, np.ndarray] = {
        "categorical": np.stack(
            [vocabulary.rows(name, examples[name]) for name in spec.categorical], axis=1
        ),
        "dense": dense_features(examples, contract.features),
        "labels": _stack(examples, [f"label_{t}" for t in spec.tasks], np.float32),
        "mature_us": np.stack([micros(examples[f"mature_ts_{t}"]) for t in spec.tasks], axis=1),
        "event_us": micros(examples["event_ts"]),
        "user": _codes(examples["user_id"]),
        "domain": _positions(examples["domain"], spec.domains).astype(np.int8),
        "vertical": _positions(pa.chunked_array([places]), spec.verticals).astype(np.int16),
        "history_end": examples["history_end"].to_numpy().astype(np.int32),
        "timeline": timeline_rows(examples, timelines),
        **_events(timelines, vocabulary, spec, attributes),
    }
    assert set(arrays) == set(_ARRAYS)
    for name in spec.bags:
        arrays |= packed_bag(name, examples[name], vocabulary)
    if contract.zipper_tasks:
        arrays |= _zipper(examples, contract, arrays)
    if content is not None:
        zone = contract.time_zone
        arrays |= item_content.content_arrays(content, examples, timelines, zone)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(partial / f"{name}.npy", np.ascontiguousarray(values))
    ids = examples.select(["impression_id", "user_id", "known_ts"])
    with (
        pa.OSFile(str(partial / "ids.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, ids.schema) as out,
    ):
        out.write_table(ids)
    prefixes = {table: vocabulary.prefix_digests(table) for table in spec.table_rows}
    np.savez(partial / _PREFIXES, **prefixes)  # pyright: ignore[reportArgumentType]
    meta: dict[str, Any] = {"spec": asdict(spec), "inputs": dict(inputs)}
    (partial / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return spec


def _zipper(
    examples: pa.Table, contract: LogContract, plain: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Labels under assigned windows, when they mature, and which window it is from the longest."""
    labels, mature_us = plain["labels"].copy(), plain["mature_us"].copy()
    place = np.zeros(labels.shape, np.int8)
    for index, (name, task) in enumerate(contract.tasks.items()):
        if not task.zipper_windows:
            continue
        (labels[:, index],) = _stack(examples, [f"zipper_label_{name}"], np.float32).T
        mature_us[:, index] = micros(examples[f"zipper_mature_ts_{name}"])
        seconds = sorted((int(w.total_seconds()) for w in task.zipper_windows), reverse=True)
        found = pc.index_in(
            examples[f"zipper_seconds_{name}"], value_set=pa.array(seconds, pa.int32())
        )
        assert found.null_count == 0, "every impression is assigned one of the windows"
        place[:, index] = found.to_numpy()
    return {"zipper_labels": labels, "zipper_mature_us": mature_us, "zipper_place": place}


def _events(
    timelines: pa.Table,
    vocabulary: Vocabulary,
    spec: InputSpec,
    attributes: ItemAttributes | None,
) -> dict[str, np.ndarray]:
    def flat(name: str) -> pa.ChunkedArray:
        return pa.chunked_array(
            [chunk.flatten() for chunk in timelines[name].chunks],
            type=timelines[name].type.value_type,
        )

    lengths = pc.list_value_length(timelines["event_ts"]).to_numpy().astype(np.int64)
    values = np.nan_to_num(flat("value").to_numpy().astype(np.float64))
    synthetic = flat("time_is_synthetic").to_numpy().astype(np.float64)
    return {
        "event_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "event_categorical": np.stack(
            [vocabulary.rows(table, flat(name)) for name, table in EVENT_FIELDS.items()]
            + attribute_rows(attributes, spec.item_attributes, timelines, vocabulary),
            axis=1,
        ),
        "event_dense": np.stack([np.log1p(np.maximum(values, 0.0)), synthetic], axis=1).astype(
            np.float32
        ),
        "event_us_flat": micros(flat("event_ts")),
    }


def timeline_rows(examples: pa.Table, timelines: pa.Table) -> np.ndarray:
    """Row of each example's timeline."""
    key = pc.binary_join_element_wise(
        timelines["user_id"], timelines["day"].cast(pa.string()), "\u0001"
    )
    wanted = pc.binary_join_element_wise(
        examples["user_id"], examples["day"].cast(pa.string()), "\u0001"
    )
    found = pc.index_in(wanted, value_set=key.combine_chunks())
    assert found.null_count == 0, "every impression has a timeline"
    return found.to_numpy().astype(np.int64)


def _stack(table: pa.Table, names: Sequence[str], kind: type) -> np.ndarray:
    """Columns side by side; missing values become NaN."""
    return np.stack(
        [pc.fill_null(table[name].cast(pa.float64()), np.nan).to_numpy() for name in names], axis=1
    ).astype(kind)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _positions(column: pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    found = pc.index_in(column, value_set=pa.array(names))
    assert found.null_count == 0, "every surface belongs to a domain and a vertical"
    return found.to_numpy()
