"""What a teacher kept of users, packed once per run by row of the packed examples.

`jobs.score_teacher` packs it; students map it into memory. Point in time means here that a row
reads what was kept of its user's earlier impressions once that could be known: never its own, and
none that was scored by who had learnt the impression.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.config import day_start
from jobs.errors import ConfigError
from jobs.representation_settings import Representation
from jobs.training.dense import micros
from jobs.training.inputs import Packed, to_us
from jobs.vocabulary import OUT_OF_VOCABULARY
from model.representations.config import Bits
from model.representations.quantise import dequantise, packed_bytes, unpack
from model.representations.stored import StoredRepresentations

REPRESENTATIONS = "packed_representations"
USER_VECTORS = "packed_user_vectors"
_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)


def pack_representations(
    folder: Path, packed: Packed, kept: pa.Table, settings: Representation, time_zone: str
) -> dict[str, Any]:
    """Pack what was kept of impressions, by the rows that may read it.

    A row reads what became readable before it was shown, at most `lookback_days` earlier: an
    impression is readable once it was shown and known or, unless `same_day`, from the end of the
    day on which it was. With `search_by` it reads impressions of its own value of that feature
    alone, which only packed impressions are known to have.

    Args:
        folder: Where to; what is there is replaced.
        packed: The rows that read.
        kept: `impression_id`, `user_id`, `event_ts`, `known_ts`, `representation` and
            `encoder_version`, none null, of the packed days and of the days before.
        settings: How it was kept.
        time_zone: Of the log's days.

    Returns:
        Counts for a job's summary.
    """
    ids = packed.ids()
    users = pc.unique(
        pa.concat_tables([ids.select(["user_id"]), kept.select(["user_id"])])["user_id"]
    )
    kept_user, row_user = (_codes(table["user_id"], users) for table in (kept, ids))
    if settings.search_by is not None:
        packed_row = pc.index_in(
            kept["impression_id"], value_set=ids["impression_id"].combine_chunks()
        ).fill_null(-1)
        values = _searched_values(packed, settings.search_by)
        kept_value = np.append(values, 0)[packed_row.to_numpy()]
        kept_user, row_user = _keys(kept_user, kept_value, row_user, values)
    event_us = micros(kept["event_ts"])
    readable = np.maximum(event_us, micros(kept["known_ts"]))
    if not settings.same_day:
        readable = _day_ends(readable, time_zone)
    rank = pc.rank(kept["impression_id"], sort_keys="ascending", tiebreaker="dense").to_numpy()
    order = np.lexsort((rank, event_us, readable, kept_user))
    kept, kept_user, readable = kept.take(pa.array(order)), kept_user[order], readable[order]
    first, end = (
        _places_before(kept_user, readable, row_user, packed.event_us - back)
        for back in (settings.lookback_days * _DAY_US, 0)
    )
    own = pc.index_in(
        ids["impression_id"], value_set=kept["impression_id"].combine_chunks()
    ).fill_null(-1)
    arrays = {
        "values": _lines(kept["representation"], packed_bytes(settings.dim, settings.bits)),
        "event_us": event_us[order],
        "first": first,
        "end": end,
        "own": own.to_numpy().astype(np.int64),
    }
    versions = sorted(pc.unique(kept["encoder_version"]).to_pylist())
    _write(folder, arrays, {"dim": settings.dim, "bits": settings.bits, "versions": versions})
    return {
        "rows_with_history": int((end > first).sum()),
        "mean_length": float((end - first).mean()),
        "encoder_versions": len(versions),
    }


def pack_user_vectors(
    folder: Path, packed: Packed, kept: pa.Table, lookback_days: int, dim: int
) -> dict[str, Any]:
    """Pack users' vectors, by the rows that read them: the latest as of before the impression.

    Args:
        folder: Where to; what is there is replaced.
        packed: The rows that read.
        kept: `user_id`, `as_of`, `vector` and `scale`, none null, of the packed days and of the
            days before.
        lookback_days: A vector that is older is not read.
        dim: Numbers of a vector.

    Returns:
        Counts for a job's summary.
    """
    ids = packed.ids()
    users = pc.unique(
        pa.concat_tables([ids.select(["user_id"]), kept.select(["user_id"])])["user_id"]
    )
    kept_user, row_user = (_codes(table["user_id"], users) for table in (kept, ids))
    as_of = micros(kept["as_of"])
    order = np.lexsort((as_of, kept_user))
    kept, kept_user, as_of = kept.take(pa.array(order)), kept_user[order], as_of[order]
    first, end = (
        _places_before(kept_user, as_of, row_user, packed.event_us - back)
        for back in (lookback_days * _DAY_US, 0)
    )
    latest = np.where(end > first, end - 1, -1)
    age_us = packed.event_us - as_of[latest] if len(as_of) else np.zeros(len(latest), np.int64)
    arrays = {
        "values": _lines(kept["vector"], packed_bytes(dim, 8)),
        "scale": kept["scale"].to_numpy().astype(np.float32),
        "latest": latest,
    }
    _write(folder, arrays, {"dim": dim, "bits": 8})
    has_one = latest >= 0
    return {
        "rows_with_vector": int(has_one.sum()),
        "mean_age_days": float(age_us[has_one].mean() / _DAY_US) if has_one.any() else None,
    }


class Representations:
    """The packed representations of a run, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        arrays, meta = _read(folder, ("values", "event_us", "first", "end", "own"))
        self.dim: int = meta["dim"]
        self.bits: Bits = meta["bits"]
        self._arrays = arrays

    def history(self, packed: Packed, rows: np.ndarray, length: int) -> StoredRepresentations:
        """The latest that each row reads, at most so many."""
        end = self._arrays["end"][rows]
        start = np.maximum(self._arrays["first"][rows], end - length)
        offsets = np.concatenate([[0], np.cumsum(end - start)])
        row = np.repeat(np.arange(len(rows)), end - start)
        at = np.arange(offsets[-1]) - offsets[row] + start[row]
        age_us = packed.event_us[rows][row] - self._arrays["event_us"][at]
        return StoredRepresentations(
            self._values(at), torch.from_numpy(age_us), torch.from_numpy(offsets)
        )

    def own(self, rows: np.ndarray) -> torch.Tensor:
        """What was kept of the rows themselves: float32, rows x V; NaN where nothing was."""
        at = self._arrays["own"][rows]
        found = torch.full((len(rows), self.dim), torch.nan)
        known = np.flatnonzero(at >= 0)
        found[torch.from_numpy(known)] = self._values(at[known])
        return found

    def _values(self, at: np.ndarray) -> torch.Tensor:
        return _dequantised(self._arrays["values"][at], self.bits, self.dim)


class UserVectors:
    """The packed vectors of users, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        arrays, meta = _read(folder, ("values", "scale", "latest"))
        self.dim: int = meta["dim"]
        self._arrays = arrays

    def of(self, rows: np.ndarray) -> torch.Tensor:
        """Vectors of rows' users: float32, rows x U; NaN where there is none."""
        at = self._arrays["latest"][rows]
        found = torch.full((len(rows), self.dim), torch.nan)
        known = np.flatnonzero(at >= 0)
        values = _dequantised(self._arrays["values"][at[known]], 8, self.dim)
        scale = torch.from_numpy(self._arrays["scale"][at[known]])
        found[torch.from_numpy(known)] = values * scale[:, None]
        return found


@dataclass(frozen=True)
class Stored:
    """What a student reads of what was kept."""

    length: int | None = None
    """L of the history of representations; None for a student that reads none."""
    representations: Representations | None = None
    is_aligned: bool = False
    """Whether it learns from the teacher's representation of the row itself."""
    user_vectors: UserVectors | None = None
    is_told: bool = True
    """Whether it is given any; a twin has the tokens and is given none."""

    def inputs(self, packed: Packed, rows: np.ndarray) -> dict[str, Any]:
        """The parts of a batch."""
        found: dict[str, Any] = {}
        if self.length is not None:
            assert self.representations is not None
            length = self.length if self.is_told else 0
            found["representations"] = self.representations.history(packed, rows, length)
        if self.user_vectors is not None:
            vectors = self.user_vectors.of(rows)
            found["user_vector"] = vectors if self.is_told else torch.full_like(vectors, torch.nan)
        return found

    def own(self, rows: np.ndarray) -> torch.Tensor | None:
        """The teacher's representations of rows, NaN where missing; None where nobody asks."""
        if not (self.is_aligned and self.is_told):
            return None
        assert self.representations is not None
        return self.representations.own(rows)

    def untold(self) -> Stored:
        """The same for a twin."""
        return replace(self, is_told=False)


def _searched_values(packed: Packed, feature: str) -> np.ndarray:
    """Table rows of the packed rows' values of a feature, 0 where they are unknown: int64."""
    column = packed.categorical[:, packed.spec.categorical.index(feature)].astype(np.int64)
    unknown = [OUT_OF_VOCABULARY, *packed.spec.evicted.get(feature, [])]
    return np.where(np.isin(column, unknown), 0, column)


def _keys(
    kept_user: np.ndarray, kept_value: np.ndarray, row_user: np.ndarray, row_value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A number per user and value, in the place of users; an unknown value meets no other."""
    span = max(kept_value.max(initial=0), row_value.max(initial=0)) + 1
    kept, row = kept_user * span + kept_value, row_user * span + row_value
    return np.where(kept_value == 0, -1, kept), np.where(row_value == 0, -2, row)


def _places_before(
    user: np.ndarray, us: np.ndarray, row_user: np.ndarray, row_us: np.ndarray
) -> np.ndarray:
    """How many stored lines lie before each row, where both are ordered by user and time.

    Lines of the row's own user lie before it if they are strictly earlier.
    """
    kind = np.concatenate([np.ones(len(user), np.int64), np.zeros(len(row_user), np.int64)])
    order = np.lexsort((kind, np.concatenate([us, row_us]), np.concatenate([user, row_user])))
    before = np.empty(len(order), np.int64)
    before[order] = np.cumsum(kind[order])
    return before[len(user) :]


def _day_ends(moments_us: np.ndarray, time_zone: str) -> np.ndarray:
    """The last microsecond of the local day of each moment."""
    local = pc.local_timestamp(pa.array(moments_us, pa.timestamp("us", time_zone)))
    days, place = np.unique(local.cast(pa.date32()).cast(pa.int32()), return_inverse=True)
    starts = [day_start(_EPOCH + timedelta(days=int(day) + 1), time_zone) for day in days]
    return np.array([to_us(start) - 1 for start in starts], np.int64)[place]


def _codes(column: pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    return pc.index_in(column, value_set=values).to_numpy().astype(np.int64)


def _lines(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Binary values as lines of bytes."""
    if len(column) == 0:
        return np.zeros((0, width), np.uint8)
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, width)


def _dequantised(lines: np.ndarray, bits: Bits, dim: int) -> torch.Tensor:
    return dequantise(unpack(torch.from_numpy(lines), bits, dim), bits)


def _write(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(partial / f"{name}.npy", np.ascontiguousarray(values))
    (partial / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _read(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not (folder / "meta.json").is_file():
        raise ConfigError(
            f"{folder.name}: nothing is packed in this run; run jobs.score_teacher in it first"
        )
    arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in names}
    return arrays, json.loads((folder / "meta.json").read_text(encoding="utf-8"))
