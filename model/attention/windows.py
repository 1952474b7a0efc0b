"""Which keys each query reads: values and offsets, no padding."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

NUM_BUCKETS = 8
"""Parts of the groups, by number of keys, that share one padded length on a CPU."""


class Bucket(NamedTuple):
    """Groups of similar length and where their queries and keys lie in a padded block."""

    num_groups: int
    num_queries: int
    """Places for queries of each group (R)."""
    num_keys: int
    """Places for keys of each group (L)."""
    query: Int64[Tensor, " q"]
    query_slot: Int64[Tensor, " q"]
    key: Int64[Tensor, " k"]
    key_slot: Int64[Tensor, " k"]
    is_read: Bool[Tensor, "g 1 R L"]


@dataclass(frozen=True)
class Windows:
    """Each query reads the keys [start, end), all of them in the query's own group.

    Group g owns the queries from query_offsets[g] and the keys from key_offsets[g] on. Queries of a
    group may read different windows, which is how rows share a timeline and keep their cut-offs.

    Args:
        query_offsets: First query of each group and, last, their number Q.
        key_offsets: First key of each group and, last, their number E.
        start: First key of each query.
        end: The key after the last of each query; an empty window reads zeros.
    """

    query_offsets: Int64[Tensor, " num_offsets"]
    key_offsets: Int64[Tensor, " num_offsets"]
    start: Int64[Tensor, " Q"]
    end: Int64[Tensor, " Q"]

    @classmethod
    def of_rows(cls, offsets: Int64[Tensor, " num_offsets"], num_queries: int) -> "Windows":
        """Every row has so many queries, and each of them reads all keys of the row."""
        query_offsets = torch.arange(len(offsets), device=offsets.device) * num_queries
        start, end = (x.repeat_interleave(num_queries) for x in (offsets[:-1], offsets[1:]))
        return cls(query_offsets, offsets, start, end)

    @classmethod
    def within(cls, offsets: Int64[Tensor, " num_offsets"]) -> "Windows":
        """Every token reads all tokens of its group."""
        lengths = offsets.diff()
        start, end = (x.repeat_interleave(lengths) for x in (offsets[:-1], offsets[1:]))
        return cls(offsets, offsets, start, end)

    @classmethod
    def causal(cls, offsets: Int64[Tensor, " num_offsets"], width: int | None) -> "Windows":
        """Every token reads itself and those before it in its group, at most `width` of them."""
        end = torch.arange(1, int(offsets[-1]) + 1, device=offsets.device)
        start = offsets[:-1].repeat_interleave(offsets.diff())
        if width is not None:
            start = torch.maximum(start, end - width)
        return cls(offsets, offsets, start, end)

    @cached_property
    def group(self) -> Int64[Tensor, " Q"]:
        """Group of each query."""
        groups = torch.arange(len(self.query_offsets) - 1, device=self.start.device)
        return groups.repeat_interleave(self.query_offsets.diff())

    @cached_property
    def buckets(self) -> list[Bucket]:
        """Padded blocks for a CPU; keys that no query reads lie in none of them."""
        num_queries = self.query_offsets.diff()
        first, last = self._span()
        num_keys = last - first
        order = num_keys.argsort(stable=True)
        order = order[num_queries[order] > 0]
        if len(order) == 0:
            return []
        return [
            self._bucket(groups, first, num_keys, num_queries)
            for groups in order.split(-(-len(order) // NUM_BUCKETS))
        ]

    def _span(self) -> tuple[Int64[Tensor, " groups"], Int64[Tensor, " groups"]]:
        """Keys of each group from the first to after the last that any of its queries reads."""
        reads = self.end > self.start
        first = torch.where(reads, self.start, self.key_offsets[1:][self.group])
        last = torch.where(reads, self.end, self.key_offsets[:-1][self.group])
        first = self.key_offsets[1:].scatter_reduce(0, self.group, first, "amin")
        last = self.key_offsets[:-1].scatter_reduce(0, self.group, last, "amax")
        return first, torch.maximum(first, last)

    def _bucket(
        self,
        groups: Int64[Tensor, " g"],
        first: Int64[Tensor, " groups"],
        num_keys: Int64[Tensor, " groups"],
        num_queries: Int64[Tensor, " groups"],
    ) -> Bucket:
        rows, lengths = num_queries[groups], num_keys[groups]
        num_rows, longest = int(rows.max()), max(1, int(lengths.max()))
        query, query_slot = _places(self.query_offsets[groups], rows, num_rows)
        key, key_slot = _places(first[groups], lengths, longest)
        window = torch.zeros(2, len(groups) * num_rows, dtype=torch.int64, device=query.device)
        window[:, query_slot] = torch.stack([self.start[query], self.end[query]])
        start, end = (window.view(2, len(groups), num_rows) - first[groups][:, None]).unbind()
        place = torch.arange(longest, device=query.device)
        is_read = (place >= start[..., None]) & (place < end[..., None])  # g R L
        return Bucket(
            len(groups),
            num_rows,
            longest,
            query,
            query_slot,
            key,
            key_slot,
            is_read[:, None],
        )


def _places(
    first: Int64[Tensor, " g"], lengths: Int64[Tensor, " g"], longest: int
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """The members of each group, one group after the other, and their places in a padded block."""
    ends = lengths.cumsum(0)
    group = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    within = torch.arange(len(group), device=lengths.device) - (ends - lengths)[group]
    return first[group] + within, group * longest + within
