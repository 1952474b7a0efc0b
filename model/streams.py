"""Jagged token streams of the upstream: families of events, and tokens that get fewer with depth.

Every token knows after which event of the batch it was complete, so that a row's cut-off finds its
place in any stream, however the stream was filtered or shortened.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from model.attention.rotary import log_time
from model.attention.windows import Windows
from model.batch import Timelines


@dataclass(frozen=True, eq=False)
class Stream:
    """Where tokens lie, and what they are made of.

    Args:
        offsets: First token of each segment and, last, their number.
        until: The event after the newest one in each token, as a place in the batch.
        clock: Log-time on the user's own clock, at each token's newest event.
    """

    offsets: Int64[Tensor, " num_offsets"]
    until: Int64[Tensor, " N"]
    clock: Float64[Tensor, " N"]

    @classmethod
    def of_events(cls, history: Timelines) -> "Stream":
        """One token per event."""
        until = torch.arange(1, len(history.event_us) + 1, device=history.event_us.device)
        return cls(history.offsets, until, user_clock(history.event_us, history.offsets))

    def known(self, end: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """The token after the last one all of whose events lie before `end`."""
        return torch.searchsorted(self.until, end, right=True)

    def causal(self, width: int | None) -> Windows:
        """Windows of causal attention."""
        return Windows.causal(self.offsets, width)


def select(stream: Stream, belongs: Bool[Tensor, " N"]) -> tuple[Stream, Int64[Tensor, " n"]]:
    """The tokens of a family, and where they were."""
    kept = belongs.nonzero()[:, 0]
    before = torch.cat([stream.offsets.new_zeros(1), belongs.long().cumsum(0)])
    return Stream(before[stream.offsets], stream.until[kept], stream.clock[kept]), kept


def reduce(stream: Stream, factor: int) -> tuple[Stream, Int64[Tensor, "n factor"]]:
    """So many tokens become one, from each segment's first on, and which ones do.

    The rest of a segment, fewer than `factor` tokens, is dropped: its token is not complete.
    """
    lengths = stream.offsets.diff() // factor
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    # Token j of a segment is made of the tokens factor · j on, counted from its first.
    shift = (stream.offsets[:-1] - factor * offsets[:-1]).repeat_interleave(lengths)
    first = factor * torch.arange(int(offsets[-1]), device=offsets.device) + shift
    members = first[:, None] + torch.arange(factor, device=offsets.device)
    newest = members[:, -1]
    return Stream(offsets, stream.until[newest], stream.clock[newest]), members


def latest(stream: Stream, other: Stream) -> tuple[Int64[Tensor, " N"], Bool[Tensor, " N"]]:
    """For each token the latest one of another stream that was complete by then, if any was."""
    lengths = stream.offsets.diff()
    at = other.known(stream.until) - 1
    exists = at >= other.offsets[:-1].repeat_interleave(lengths)
    return at.clamp(min=0), exists


def user_clock(
    event_us: Int64[Tensor, " E"], offsets: Int64[Tensor, " num_offsets"]
) -> Float64[Tensor, " E"]:
    """τ_i = Σ_{j ≤ i} log(1 + (t_j − t_{j−1}) / t_scale), the first event of a segment at 0.

    The difference of two events depends on the gaps between them alone: on no impression, on
    nothing later, and on nothing before both. Gaps that are negative, because an event became known
    late, count as none.
    """
    gaps = log_time(event_us.diff(prepend=event_us[:1]))
    total = gaps.cumsum(0)
    lengths = offsets.diff()
    start = offsets[:-1][lengths > 0].repeat_interleave(lengths[lengths > 0])
    return total - total[start]


def gather_latest(
    tokens: Float[Tensor, "N D"], at: Int64[Tensor, " n"], exists: Bool[Tensor, " n"]
) -> Float[Tensor, "n D"]:
    """Tokens at places; zeros where there is none."""
    if len(tokens) == 0:
        return tokens.new_zeros(len(at), tokens.shape[1]) + tokens.sum() * 0.0
    return torch.where(exists[:, None], tokens.index_select(0, at), 0.0)
