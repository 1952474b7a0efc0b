"""Vectors of users from a teacher's upstream: when they are made, and by which checkpoint.

A user's vector is made anew when a day ends on which something became known of the user, and when
an event of high value arrives. Its moment is that of the day's end or of the arrival, and it holds
what had become known by then. `jobs.pack_examples` finds the moments of the packed timelines.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.config import day_start
from jobs.errors import ConfigError
from jobs.training.checkpoints import Card, learnt_until_us, load_model, read_card
from jobs.training.dense import micros
from jobs.training.inputs import Packed, to_us
from jobs.training.reader import Reader, events_as_known
from jobs.training.side_by_side import on_threads
from jobs.user_embeddings import SCHEMA
from model.ranker import Ranker, Student
from model.representations.quantise import quantise, scaled

_FILE = "moments.arrow"
_MOMENT = pa.timestamp("us", "UTC")
_USERS_PER_BATCH = 256


def user_moments(timelines: pa.Table, high_value: Sequence[str], time_zone: str) -> pa.Table:
    """When users' vectors are made, of what their timelines hold.

    Args:
        timelines: `user_id`, `day`, `num_prior`, `event_type` and `known_ts` of the timelines
            table, in the order in which they are packed.
        high_value: Event types on whose arrival a vector is made.
        time_zone: Of the log's days.

    Returns:
        By moment `timeline`, the row of `timelines`; `num_events`, those known by then; `user_id`,
        `as_of` and `reason`, `day_end` or `event`. A user of whom nothing is known has none.
    """
    lengths = pc.list_value_length(timelines["known_ts"]).to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    days, place = np.unique(timelines["day"].cast(pa.int32()).to_numpy(), return_inverse=True)
    starts = [day_start(_EPOCH + timedelta(days=int(day) + 1), time_zone) for day in days]
    end_us = np.array([to_us(start) for start in starts], np.int64)[place]
    whole = np.arange(len(lengths))
    kind, known = (_flat(timelines[name]) for name in ("event_type", "known_ts"))
    known_us = micros(known)
    of = np.repeat(whole, lengths)
    new = np.arange(len(of)) - offsets[of] >= timelines["num_prior"].to_numpy()[of]
    valued = pc.is_in(kind, value_set=pa.array(list(high_value), pa.string()))
    at = np.flatnonzero(new & valued.to_numpy(zero_copy_only=False))
    # Several that arrive together make one moment, after the last event that arrived with them.
    ends = np.flatnonzero((np.diff(of) != 0) | (np.diff(known_us) != 0))
    last = np.concatenate([ends, [len(of) - 1]])
    at = np.unique(last[np.searchsorted(last, at)]) if len(at) else at
    timeline = np.concatenate([whole, of[at]])
    moments = pa.table(
        {
            "timeline": pa.array(timeline, pa.int64()),
            "num_events": pa.array(np.concatenate([lengths, at + 1 - offsets[of[at]]]), pa.int32()),
            "user_id": timelines["user_id"].take(pa.array(timeline)),
            "as_of": pa.array(np.concatenate([end_us, known_us[at]]), _MOMENT),
            "reason": pa.array(["day_end"] * len(whole) + ["event"] * len(at)),
        }
    )
    return moments.filter(pc.greater(moments["num_events"], 0))


def write_moments(folder: Path, moments: pa.Table) -> None:
    """Keep moments beside the packed arrays."""
    with pa.OSFile(str(folder / _FILE), "wb") as sink, pa.ipc.new_file(sink, moments.schema) as out:
        out.write_table(moments)


def read_moments(packed: Packed) -> pa.Table:
    """The moments of the packed timelines.

    Raises:
        ConfigError: None were packed.
    """
    path = packed.folder / _FILE
    if not path.is_file():
        raise ConfigError(
            "user_vectors: no moments of users are packed in this run; run jobs.pack_examples in "
            "it again"
        )
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def user_vectors(
    model: Ranker | Student, card: Card, reader: Reader, moments: pa.Table
) -> pa.Table:
    """Vectors of users at moments that lie after what a model has learnt.

    Args:
        model: A model with an upstream.
        card: What it is.
        reader: Its batches.
        moments: From `user_moments`.

    Returns:
        Columns of `jobs.user_embeddings.SCHEMA`.
    """
    if moments.num_rows == 0:
        return SCHEMA.empty_table()
    ranker = (model.ranker if isinstance(model, Student) else model).to(reader.device)
    packed, config = reader.packed, ranker.config
    assert config.history is not None, "a ranker with an upstream has a history"
    timeline = moments["timeline"].to_numpy()
    end, as_of = moments["num_events"].to_numpy().astype(np.int64), micros(moments["as_of"])
    # Batches of neighbours: moments of one timeline share what is computed of it.
    order = np.argsort(timeline, kind="stable")
    max_events = config.history.max_events

    def represent(low: int) -> torch.Tensor:
        at = order[low : low + _USERS_PER_BATCH]
        history = packed.history(
            timeline[at], end[at], as_of[at], max_events, whole=True, content=reader.content
        )
        history = events_as_known(history, config).map(lambda x: x.to(reader.device))
        return ranker.represent_user(history).cpu()

    parts = on_threads(represent, range(0, len(order), _USERS_PER_BATCH), reader.device)
    vectors = torch.cat(parts)[torch.from_numpy(np.argsort(order))]
    within, scale = scaled(vectors)
    codes, number = quantise(within, 8).numpy(), len(order)
    until = learnt_until_us(card)
    columns = {
        "user_id": moments["user_id"],
        "as_of": moments["as_of"],
        "trained_until": pa.array(np.full(number, until), _MOMENT),
        "teacher_run": pa.array([card.run_id] * number),
        "reason": moments["reason"],
        "num_events": moments["num_events"],
        "dim": pa.array([vectors.shape[1]] * number, pa.int32()),
        "scale": pa.array(scale.numpy()),
        "vector": pa.array([line.tobytes() for line in codes], pa.binary()),
    }
    return pa.table(columns, schema=SCHEMA)


def vectors_out_of_sample(
    reader: Reader, checkpoints: Sequence[Path], until_us: int
) -> tuple[pa.Table, int]:
    """Vectors at every moment that comes after some checkpoint, each by the last one before it.

    Args:
        reader: The teacher's batches.
        checkpoints: In the order of `trained_until`.
        until_us: Moments at or after this are left to the next run.

    Returns:
        Columns of `jobs.user_embeddings.SCHEMA`, and how many moments came before all checkpoints.
    """
    moments = read_moments(reader.packed)
    as_of = micros(moments["as_of"])
    cards = [read_card(folder) for folder in checkpoints]
    ends = np.array([learnt_until_us(card) for card in cards])
    # Of two that have learnt as much, the first, as for scores.
    last = np.searchsorted(ends, as_of, side="right") - 1
    chosen = np.where(last < 0, -1, np.searchsorted(ends, ends)[last])
    parts = [SCHEMA.empty_table()]
    for index, (folder, card) in enumerate(zip(checkpoints, cards, strict=True)):
        at = np.flatnonzero((chosen == index) & (as_of < until_us))
        if len(at):
            parts.append(user_vectors(load_model(folder), card, reader, moments.take(pa.array(at))))
    return pa.concat_tables(parts), int((chosen < 0).sum())


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array(
        [chunk.flatten() for chunk in column.chunks], type=column.type.value_type
    )


_EPOCH = date(1970, 1, 1)
