"""The candidate attends over the user's latest events and comes back with summary tokens."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from model.attention import attend
from model.attention.windows import Windows
from model.batch import RowEvents, Timelines
from model.config import RankerConfig
from model.events import NUM_AGE_KNOTS, AgeEncoding
from model.interaction.compress import LinearCompressBlock


class TargetAttention(nn.Module):
    """Queries made from the row's feature tokens attend over the row's events.

    Q = W_q (W_c X),  W_c: S × F
    [K; V]_be = W_kv x_e + a(t_b − t_e) [+ W_m m_be],  a the encoding of the event's age at the row
    S = W_o · heads(softmax(Q Kᵀ / √d) V),  or a learned token where a row has no event

    W_kv x_e is computed once per event of the batch; only age and matches are added for each row.
    With `matches`, m_be has a 1 for each field in which event and row hold the same known value;
    W_m starts at zero. So the share of a user's latest events that are about the ad's category is
    a linear function of the summary, not a product of tables that must first be learnt.

    Paper: GEM (Meta engineering, 2025), sequence part; target attention as in DIN
        (arXiv 1706.06978); the query of LLaTTE (arXiv 2601.20083), W_Q [x; c]; matches: the hard
        search of SIM (arXiv 2006.05639), crossed with the candidate in the attention as in TWIN
        (arXiv 2302.02352).
    Differs: GEM gives no equation; several queries from all feature tokens, the additive age, and
        softmax over the timeline instead of DIN's unnormalised weights, are ours. Events that match
        are marked among all others, where SIM leaves the others out; a match is added to values
        too, where TWIN's cross features move the weights alone.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        history = config.history
        assert history is not None
        self.num_heads = history.num_heads
        self.num_summary_tokens = history.num_summary_tokens
        self.max_events = history.max_events
        self.compress = LinearCompressBlock(config.num_feature_tokens, history.num_summary_tokens)
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.age = AgeEncoding(2 * config.width)
        self.matched = config.matched_fields
        self.match = None
        if self.matched:
            # Nothing is drawn for it, so that all other weights start as they do without.
            match = nn.utils.skip_init(nn.Linear, len(self.matched), 2 * config.width, bias=False)
            assert isinstance(match, nn.Linear)
            nn.init.zeros_(match.weight)
            self.match = match
        self.output = nn.Linear(config.width, config.width)
        self.default = nn.Parameter(torch.randn(history.num_summary_tokens, config.width) * 0.02)

    def forward(
        self,
        tokens: Float[Tensor, "B F D"],
        events: Float[Tensor, "E D"],
        history: Timelines,
        categorical: Int64[Tensor, "B C"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Reads the rows' latest events.

        Args:
            tokens: Feature tokens of the rows.
            events: Vectors of the batch's events.
            history: The timelines.
            categorical: Table indexes of the rows' fields; needed where matches are marked.
        """
        read = history.row_events(self.max_events)
        age = self.age(history.row_us[read.row] - history.event_us[read.event])
        pairs = self.key_value(events).index_select(0, read.event) + age  # P 2D
        if self.match is not None:
            assert categorical is not None, "rows without fields match nothing"
            pairs = pairs + self.match(self._matches(categorical, history, read))
        key, value = pairs.unflatten(1, (2, self.num_heads, -1)).unbind(1)
        query = self.query(self.compress(tokens)).flatten(0, 1).unflatten(1, (self.num_heads, -1))
        windows = Windows.of_rows(read.offsets, self.num_summary_tokens)
        attended = attend(query, key, value, windows)  # B·S H d
        summary = self.output(attended.flatten(1)).unflatten(0, (-1, self.num_summary_tokens))
        is_empty = (read.offsets.diff() == 0)[:, None, None]
        return torch.where(is_empty, self.default, summary)

    def _matches(
        self, categorical: Int64[Tensor, "B C"], history: Timelines, read: RowEvents
    ) -> Float[Tensor, "P M"]:
        """By pair and field, 1 where row and event hold the same value that the table knows."""
        own, theirs = (list(places) for places in zip(*self.matched, strict=True))
        row = categorical[:, own].index_select(0, read.row)
        event = history.categorical[:, theirs].index_select(0, read.event)
        return ((row == event) & (row > 0)).to(self.age.projection.weight.dtype)


def num_parameters(config: RankerConfig) -> int:
    """Parameters of `TargetAttention`, in closed form."""
    assert config.history is not None
    d, s = config.width, config.history.num_summary_tokens
    age = (NUM_AGE_KNOTS + len(config.matched_fields)) * 2 * d
    return s * config.num_feature_tokens + d * d + 2 * d * d + age + (d + 1) * d + s * d


def flops_per_event(config: RankerConfig) -> int:
    """Forward FLOPs of `TargetAttention` for one event, whatever the number of its rows."""
    return 4 * config.width**2


def flops_per_row(config: RankerConfig, num_events: float) -> float:
    """Forward FLOPs of `TargetAttention` for one row that reads so many events."""
    assert config.history is not None
    d, s = config.width, config.history.num_summary_tokens
    per_event = 4 * (NUM_AGE_KNOTS + len(config.matched_fields)) * d + 4 * s * d
    return num_events * per_event + 2 * s * config.num_feature_tokens * d + 4 * s * d * d
