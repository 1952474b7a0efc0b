"""Rows of similar length together, so that little of a padded block is padding."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

NUM_BUCKETS = 8
"""Groups of rows that share one padded length."""


def padded_buckets(
    offsets: Int64[Tensor, " num_offsets"],
) -> Iterator[tuple[Int64[Tensor, "b T"], Bool[Tensor, "b T"]]]:
    """Cuts the rows, sorted by length, into groups, and pads each to its longest row.

    Rows without events are in no group.

    Yields:
        Which event lies at each place, and whether one does; elsewhere the index is that of any
        event, and what it reads must be masked.
    """
    lengths = offsets.diff()
    order = lengths.argsort(stable=True)
    groups = order.split(-(-len(order) // NUM_BUCKETS))
    longest = torch.stack([lengths[rows[-1]] for rows in groups]).tolist()
    for rows, length in zip(groups, longest, strict=True):
        place = torch.arange(length, device=offsets.device)
        is_event = place < lengths[rows, None]
        index = torch.where(is_event, offsets[:-1][rows, None] + place, 0)
        if length:
            yield index, is_event
