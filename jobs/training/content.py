"""Which vector tells of an item's content, as known then: rows into one matrix, never copies.

Row 0 is for no content: an item without text, of which nothing was known yet, or whose text was
withdrawn. A vector is of a text known strictly before the impression, the rule of every attribute.
All impressions that read an event of a timeline come on the timeline's day and after the event
became known; so its item's text is the last one known before the later of the two.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when imported.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.command import read_summary
from jobs.config import RunConfig, day_start
from jobs.content.settings import TfidfSvd
from jobs.content.texts import open_texts
from jobs.content.vectors import TABLE, vectors_of
from jobs.training.item_states import flat, last_known, micros


@dataclass(frozen=True)
class ItemContent:
    """The content of items over time."""

    states: pa.Table
    """`item_id`, `known_ts`, `content_hash`: changes, in order of item and time; null for none."""
    hashes: pa.Array
    """Texts that have a vector, each once."""
    vectors: np.ndarray
    """hashes x dim, of length 1 or 0."""

    def rows_at(self, items: pa.ChunkedArray, at_us: np.ndarray) -> np.ndarray:
        """Rows of items' content as known strictly before moments.

        Args:
            items: Item ids, missing ones among them.
            at_us: Moments, microseconds since 1970 UTC.

        Returns:
            int32: 0 for no content, else 1 + the position in `hashes`.
        """
        row = pc.add(pc.index_in(self.states["content_hash"], value_set=self.hashes), 1)
        missing = pc.and_(pc.is_valid(self.states["content_hash"]), pc.is_null(row))
        assert not pc.any(missing).as_py(), "embed_content gave every text a vector"
        found = last_known(self.states, items, at_us)
        # Of an item of which nothing was known, the row after the last: no content either.
        rows = np.append(pc.fill_null(row, 0).to_numpy().astype(np.int32), np.int32(0))
        return rows[found]


def read_content(config: RunConfig, examples: pa.Table, timelines: pa.Table) -> ItemContent:
    """Content of the items that the rows name, at the versions that `embed_content` left.

    Raises:
        ConfigError: `embed_content` has not run.
    """
    declared = config.contract.content
    assert declared is not None
    done = read_summary(config, "embed_content")
    (version,) = done.inputs.values()
    states = open_texts(config, declared, version).states()
    told = [examples["ad_id"].unique(), flat(timelines["item_id"]).unique()]
    items = pa.chunked_array(told).drop_null().unique()
    states = states.filter(pc.is_in(states["item_id"], value_set=items))
    encoder_version = done.details["encoder_version"]
    if encoder_version is None:
        assert isinstance(declared.encoder, TfidfSvd), "any other needs no fitting"
        nothing = np.zeros((0, declared.encoder.dim), np.float32)
        return ItemContent(states.slice(0, 0), pa.array([], pa.string()), nothing)
    table = delta.open_table(config.table(TABLE), done.outputs[TABLE])
    wanted = states["content_hash"].drop_null().unique()
    hashes, vectors = vectors_of(table, encoder_version, wanted, done.details["dim"])
    return ItemContent(states, hashes, vectors)


def content_arrays(
    content: ItemContent, examples: pa.Table, timelines: pa.Table, time_zone: str
) -> dict[str, np.ndarray]:
    """The packed arrays of content.

    Returns:
        `content`: float16, row 0 of zeros and then the vectors; `content_row` by example and
        `event_content_row` by event of all timelines, int32, rows of it.
    """
    lengths = pc.list_value_length(timelines["known_ts"]).to_numpy().astype(np.int64)
    starts = {
        day: int(day_start(day, time_zone).timestamp()) * 1_000_000
        for day in pc.unique(timelines["day"]).to_pylist()
    }
    begun = np.array([starts[day] for day in timelines["day"].to_pylist()], np.int64)
    at_us = np.maximum(micros(flat(timelines["known_ts"])), np.repeat(begun, lengths))
    nothing = np.zeros((1, content.vectors.shape[1]), np.float32)
    return {
        "content": np.concatenate([nothing, content.vectors]).astype(np.float16),
        "content_row": content.rows_at(examples["ad_id"], micros(examples["event_ts"])),
        "event_content_row": content.rows_at(flat(timelines["item_id"]), at_us),
    }
