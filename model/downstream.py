"""How a row reads its latest events, from the configuration to the module and its costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model import target_attention
from model.batch import Timelines
from model.config import HistoryConfig, RankerConfig
from model.interaction.compress import LinearCompressBlock
from model.sequence import din, hstu
from model.sequence.config import DinConfig, HstuConfig
from model.sequence.din import DeepInterest
from model.sequence.hstu import Hstu
from model.target_attention import TargetAttention

_MICROSECONDS = 1_000_000


class DinDownstream(nn.Module):
    """Candidates made from the row's feature tokens, and the user's interest in each.

    V = W_c X,  W_c: S × F;  S_s = Σ_e a(x_e, v_s) x_e, zero where a row has no event

    Paper: DIN (arXiv 1706.06978), sections 4.3 and 5.3.
    Differs: the paper's candidate is the ad's embedding; here S are made from all feature tokens.
        As there, an event's age does not count.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        history, sizes = _sizes(config)
        assert isinstance(sizes, DinConfig)
        self.num_summary_tokens = history.num_summary_tokens
        self.max_events = history.max_events
        self.compress = LinearCompressBlock(config.num_feature_tokens, history.num_summary_tokens)
        self.interest = DeepInterest(sizes, config.width)

    def forward(
        self, tokens: Float[Tensor, "B F D"], events: Float[Tensor, "E D"], history: Timelines
    ) -> Float[Tensor, "B S D"]:
        read = history.row_events(self.max_events)
        # All rows with their first candidate, then all with their second, and so on.
        every = read.event.repeat(self.num_summary_tokens)
        lengths = read.offsets.diff().repeat(self.num_summary_tokens)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        candidates = self.compress(tokens).transpose(0, 1).flatten(0, 1)  # S·B D
        interest = self.interest(
            candidates, events.index_select(0, every), history.event_us[every], offsets
        )
        return interest.unflatten(0, (self.num_summary_tokens, -1)).transpose(0, 1)


class HstuDownstream(nn.Module):
    """HSTU over a row's events, oldest first, with its candidates at the end.

    C = W_c X,  W_c: S × F;  [.. ‖ S] = HSTU([x_1 … x_T ‖ C]), the times those of the events and,
    for C, of the impression

    Everything looks back only, so no event knows the candidates, and they know all events.

    Paper: HSTU (arXiv 2402.17152), sections 2 and 3, ranking with target-aware sequences.
    Differs: the candidates are made from all feature tokens, and a later one sees those before it;
        an event and its action are one token instead of two; events are encoded for each row, since
        rows of a timeline begin at different events.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        history, sizes = _sizes(config)
        assert isinstance(sizes, HstuConfig)
        self.num_summary_tokens = history.num_summary_tokens
        self.max_events = history.max_events
        self.compress = LinearCompressBlock(config.num_feature_tokens, history.num_summary_tokens)
        self.encoder = Hstu(sizes, config.width, history.max_events + history.num_summary_tokens)

    def forward(
        self, tokens: Float[Tensor, "B F D"], events: Float[Tensor, "E D"], history: Timelines
    ) -> Float[Tensor, "B S D"]:
        read = history.row_events(self.max_events)
        num_rows, num_last, device = len(tokens), self.num_summary_tokens, read.event.device
        offsets = read.offsets + num_last * torch.arange(num_rows + 1, device=device)
        place = torch.arange(len(read.event), device=device) + num_last * read.row
        last = (offsets[1:, None] + torch.arange(-num_last, 0, device=device)).flatten()
        candidates = self.compress(tokens).flatten(0, 1)  # B·S D
        sequence = events.new_zeros(len(place) + len(last), events.shape[1])
        sequence = sequence.index_copy(0, place, events.index_select(0, read.event))
        sequence = sequence.index_copy(0, last, candidates.to(sequence.dtype))
        times = read.event.new_zeros(len(sequence))
        times[place] = history.event_us[read.event] // _MICROSECONDS
        times[last] = history.row_us.repeat_interleave(num_last) // _MICROSECONDS
        encoded = self.encoder(sequence, times, offsets)
        return encoded.index_select(0, last).unflatten(0, (num_rows, num_last))


def build_downstream(config: RankerConfig) -> nn.Module:
    """The downstream of a ranker: feature tokens, events and timelines in, B S D out."""
    return _kind(config).build(config)


def num_parameters(config: RankerConfig) -> int:
    """Parameters of the downstream, in closed form."""
    return _kind(config).num_parameters(config)


def flops_per_event(config: RankerConfig) -> int:
    """Forward FLOPs of the downstream for one event, whatever the number of its rows."""
    return _kind(config).flops_per_event(config)


def flops_per_row(config: RankerConfig, num_events: float) -> float:
    """Forward FLOPs of the downstream for one row that reads so many events."""
    return _kind(config).flops_per_row(config, num_events)


def _din_num_parameters(config: RankerConfig) -> int:
    history, sizes = _sizes(config)
    return history.num_summary_tokens * config.num_feature_tokens + din.num_parameters(
        sizes, config.width
    )


def _din_flops_per_row(config: RankerConfig, num_events: float) -> float:
    history, sizes = _sizes(config)
    one = 2 * config.num_feature_tokens * config.width + din.flops(sizes, config.width, num_events)
    return history.num_summary_tokens * one


def _hstu_num_parameters(config: RankerConfig) -> int:
    history, sizes = _sizes(config)
    s = history.num_summary_tokens
    encoder = hstu.num_parameters(sizes, config.width, history.max_events + s)
    return s * config.num_feature_tokens + encoder


def _hstu_flops_per_row(config: RankerConfig, num_events: float) -> float:
    history, sizes = _sizes(config)
    s = history.num_summary_tokens
    encoder = hstu.flops(sizes, config.width, num_events + s)
    return 2 * s * config.num_feature_tokens * config.width + encoder


def _nothing_per_event(config: RankerConfig) -> int:
    return 0


class _Kind(NamedTuple):
    build: Callable[[RankerConfig], nn.Module]
    num_parameters: Callable[[RankerConfig], int]
    flops_per_event: Callable[[RankerConfig], int]
    flops_per_row: Callable[[RankerConfig, float], float]


_KINDS = {
    "target_attention": _Kind(
        TargetAttention,
        target_attention.num_parameters,
        target_attention.flops_per_event,
        target_attention.flops_per_row,
    ),
    "din": _Kind(DinDownstream, _din_num_parameters, _nothing_per_event, _din_flops_per_row),
    "hstu": _Kind(HstuDownstream, _hstu_num_parameters, _nothing_per_event, _hstu_flops_per_row),
}


def _kind(config: RankerConfig) -> _Kind:
    assert config.history is not None
    return _KINDS[config.history.downstream.kind]


def _sizes(config: RankerConfig) -> tuple[HistoryConfig, Any]:
    """The history, and the sizes of its downstream."""
    assert config.history is not None
    return config.history, config.history.downstream
