"""What comes next: how well the upstream foretells the newest event of each row."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.config import RankerConfig
from model.embeddings import EmbeddingTables


class NextEvents(NamedTuple):
    """Values to foretell, and others that they are told apart from.

    Shares are those of the values to foretell in the global batch, so that they are the same for
    workers with parts of it.
    """

    target: Int64[Tensor, " B"]
    """Table index of each row's newest event; 0 where it has none, or an unknown value."""
    target_log_share: Float32[Tensor, " B"]
    """ln q of the target; anything where it is 0."""
    negatives: Int64[Tensor, " C"]
    """Table indexes drawn from the values to foretell, each by its share (C)."""
    negative_log_share: Float32[Tensor, " C"]
    """ln q of these."""


class NextEventHead(nn.Module):
    """Cross-entropy of each row's newest event, foretold from what was known before it.

    u_b = W LN(S_b),  S_b the upstream's summary tokens, flattened, at the cut-off just before
    e_b = −ln softmax_c(⟨u_b, E_c⟩ − ln q_c) at the target,  c over the target and the negatives

    A negative that is the target is left out. E is the table of the event's field, which the loss
    teaches too. −ln q corrects for popular values being drawn more often.

    Paper: SASRec (arXiv 1808.09781), section 3, and HSTU (arXiv 2402.17152), section 2, next items
        by a causal encoder; the correction of Yi et al. 2019 (sampling-bias-corrected retrieval).
    Differs: one target per row, its newest event, where the papers foretell every event; so that an
        event is not learnt again with every later row. The encoder is the upstream. A row without a
        full token before the event foretells from the learned default alone, by popularity.

    Args:
        config: Shape of the ranker, with a field to foretell.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        assert config.history is not None
        self.field = config.history.field_to_foretell
        self.norm = nn.LayerNorm(_user_width(config))
        self.projection = nn.Linear(_user_width(config), config.table_dim(self.field), bias=False)

    def forward(
        self, summary: Float[Tensor, "B S D"], tables: EmbeddingTables, events: NextEvents
    ) -> Float[Tensor, " B"]:
        """Tells the cross-entropy of each row's target; of a row without one it means nothing."""
        user = self.projection(self.norm(summary.flatten(1)))  # B dim
        indexes = torch.cat([events.target, events.negatives])
        (values,) = tables([self.field], indexes[:, None])
        targets, negatives = values.split([len(events.target), len(events.negatives)])
        scores = user @ negatives.T - events.negative_log_share  # B C
        is_target = events.negatives == events.target[:, None]
        own = (user * targets).sum(1) - events.target_log_share
        scores = torch.cat([own[:, None], scores.masked_fill(is_target, -torch.inf)], dim=1)
        return cross_entropy(scores, torch.zeros_like(events.target), reduction="none")


def num_parameters(config: RankerConfig) -> int:
    """Parameters of `NextEventHead`."""
    assert config.history is not None
    width = _user_width(config)
    return 2 * width + width * config.table_dim(config.history.field_to_foretell)


def _user_width(config: RankerConfig) -> int:
    assert config.history is not None and config.history.upstream is not None
    upstream = config.history.upstream
    return len(upstream.branches) * upstream.num_summary_tokens * config.width
