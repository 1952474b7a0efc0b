"""Which keys each query reads: values and offsets, no padding."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

NUM_BUCKETS = 8
"""Most parts of the blocks of queries, by number of keys, that share a padded length on a CPU."""
SCORES_PER_BUCKET = 32_768
"""Padded scores, about, that are worth a bucket of their own: of fewer, its calls cost more."""
KERNEL_BLOCK = 128
"""Queries, and keys, of a block of FlexAttention's mask."""
QUERIES_PER_BLOCK = 256
"""Most queries of a group that share one block: the keys of a block are those that one reads."""


class Bucket(NamedTuple):
    """Blocks of queries with similar numbers of keys, and where both lie in padded rows."""

    num_blocks: int
    num_queries: int
    """Places for queries of each block (R)."""
    num_keys: int
    """Places for keys of each block (L)."""
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
    def unread(self) -> Bool[Tensor, " E"] | None:
        """Keys that no query reads; None where every key is read."""
        reads = (self.end > self.start).long()
        change = reads.new_zeros(int(self.key_offsets[-1]) + 1)
        change = change.index_add(0, self.start, reads).index_add(0, self.end, -reads)
        unread = change.cumsum(0)[:-1] == 0
        return unread if bool(unread.any()) else None

    @cached_property
    def block_mask(self) -> BlockMask:
        """The windows for FlexAttention, made once for all layers that read them.

        Windows are intervals, so a block of queries and one of keys are told apart by counts: the
        mask costs a number per pair of blocks, not one per pair of query and key.
        """
        start, end = self.start, self.end
        num_keys = int(self.key_offsets[-1])
        places = -(-num_keys // KERNEL_BLOCK)
        reads = end > start
        touched = self._per_block(
            start // KERNEL_BLOCK, torch.where(reads, -(-end // KERNEL_BLOCK), 0), places
        )
        filled = self._per_block(-(-start // KERNEL_BLOCK), end // KERNEL_BLOCK, places)
        whole = filled == KERNEL_BLOCK
        part = (touched > 0) & ~whole
        return BlockMask.from_kv_blocks(
            *_listed(part),
            *_listed(whole),
            BLOCK_SIZE=KERNEL_BLOCK,
            # A lambda, for a decorated function would hide its arguments.
            mask_mod=lambda _batch, _head, query, key: (key >= start[query]) & (key < end[query]),
            seq_lengths=(len(start), num_keys),
        )

    def _per_block(
        self, first: Int64[Tensor, " Q"], last: Int64[Tensor, " Q"], num_places: int
    ) -> Int64[Tensor, "I J"]:
        """Queries of each block of queries whose blocks of keys, [first, last), hold each block."""
        num_queries = len(first)
        block = torch.arange(num_queries, device=first.device) // KERNEL_BLOCK
        num_blocks = -(-num_queries // KERNEL_BLOCK)
        one = (last > first).long()
        change = first.new_zeros(num_blocks * (num_places + 1))
        row = block * (num_places + 1)
        change = change.index_add(0, row + first, one).index_add(
            0, row + torch.maximum(last, first), -one
        )
        return change.view(num_blocks, num_places + 1).cumsum(1)[:, :-1]

    @cached_property
    def buckets(self) -> list[Bucket]:
        """Padded rows for a CPU; keys that no query reads lie in none of them."""
        first_query, num_queries, group = self._blocks()
        block = torch.arange(len(group), device=group.device).repeat_interleave(num_queries)
        reads = self.end > self.start
        first, last = self.key_offsets[1:][group], self.key_offsets[:-1][group]
        start = torch.where(reads, self.start, first[block])
        end = torch.where(reads, self.end, last[block])
        first = first.scatter_reduce(0, block, start, "amin")
        num_keys = (last.scatter_reduce(0, block, end, "amax") - first).clamp(min=0)
        order = num_keys.argsort(stable=True)
        if len(order) == 0:
            return []
        scores = len(order) * int(num_queries.max()) * int(num_keys.max())
        num_buckets = min(NUM_BUCKETS, 1 + scores // SCORES_PER_BUCKET)
        return [
            self._bucket(first_query[at], num_queries[at], first[at], num_keys[at])
            for at in order.split(-(-len(order) // num_buckets))
        ]

    def _blocks(
        self,
    ) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " b"], Int64[Tensor, " b"]]:
        """Every block's first query, number of queries, and group; groups without any have none."""
        lengths = self.query_offsets.diff()
        counts = -(-lengths // QUERIES_PER_BLOCK)
        group = torch.arange(len(lengths), device=lengths.device).repeat_interleave(counts)
        within = (
            torch.arange(len(group), device=lengths.device) - (counts.cumsum(0) - counts)[group]
        )
        skipped = within * QUERIES_PER_BLOCK
        num_queries = (lengths[group] - skipped).clamp(max=QUERIES_PER_BLOCK)
        return self.query_offsets[group] + skipped, num_queries, group

    def _bucket(
        self,
        first_query: Int64[Tensor, " g"],
        num_queries: Int64[Tensor, " g"],
        first_key: Int64[Tensor, " g"],
        num_keys: Int64[Tensor, " g"],
    ) -> Bucket:
        most, longest = int(num_queries.max()), max(1, int(num_keys.max()))
        query, query_slot = _places(first_query, num_queries, most)
        key, key_slot = _places(first_key, num_keys, longest)
        window = torch.zeros(2, len(first_query) * most, dtype=torch.int64, device=query.device)
        window[:, query_slot] = torch.stack([self.start[query], self.end[query]])
        start, end = (window.view(2, len(first_query), most) - first_key[:, None]).unbind()
        place = torch.arange(longest, device=query.device)
        is_read = (place >= start[..., None]) & (place < end[..., None])  # g R L
        return Bucket(
            len(first_query),
            most,
            longest,
            query,
            query_slot,
            key,
            key_slot,
            is_read[:, None],
        )


def _listed(blocks: Bool[Tensor, "I J"]) -> tuple[Tensor, Tensor]:
    """Numbers of chosen key blocks of each query block, and those blocks, the chosen ones first."""
    listed = blocks.long().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1).int()[None, None], listed.int()[None, None]


def _places(
    first: Int64[Tensor, " g"], lengths: Int64[Tensor, " g"], longest: int
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """The members of each block, one block after the other, and their places in padded rows."""
    ends = lengths.cumsum(0)
    block = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    within = torch.arange(len(block), device=lengths.device) - (ends - lengths)[block]
    return first[block] + within, block * longest + within
