"""The long sequence: a transformer over whole timelines, computed once for all impressions.

Paper: GEM (Meta engineering, 2025), pyramid-parallel structure for offline sequences; LLaTTE
    (arXiv 2601.20083), the upstream user model; neither gives equations.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from model.attention.blocks import AttentionPooling, SelfAttention
from model.attention.windows import Windows
from model.batch import Timelines
from model.config import HistoryConfig
from model.streams import Stream, gather_latest, latest, reduce, select


class CausalLayer(nn.Module):
    """One layer of a branch, each token reading those before it.

    X ← X + MHA(LN(X)),  X ← X + W_2 ReLU(W_1 LN(X))

    Paper: the transformer (arXiv 1706.03762), section 3, with norms before the blocks.
    Differs: none.
    """

    def __init__(self, width: int, num_heads: int, ffn_hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, ffn_hidden)
        self.ffn_out = nn.Linear(ffn_hidden, width)

    def forward(
        self, tokens: Float[Tensor, "N D"], clock: Float64[Tensor, " N"], windows: Windows
    ) -> Float[Tensor, "N D"]:
        tokens = tokens + self.attention(self.attention_norm(tokens), clock, windows)
        return tokens + self.ffn_out(F.relu(self.ffn_in(self.ffn_norm(tokens))))


class Merge(nn.Module):
    """Tells a branch what the others know.

    X_p ← X_p + W_p [LN(X_1)‖…‖LN(X_P)],  of each other branch the latest token that was complete

    Paper: GEM, parallel modules; no equation is public.
    Differs: all of it is ours.
    """

    def __init__(self, width: int, num_branches: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_branches))
        self.projections = nn.ModuleList(
            nn.Linear(num_branches * width, width) for _ in range(num_branches)
        )

    def forward(
        self, branches: list[Float[Tensor, "_ D"]], streams: list[Stream]
    ) -> list[Float[Tensor, "_ D"]]:
        normed = [norm(tokens) for norm, tokens in zip(self.norms, branches, strict=True)]
        merged = []
        for own, stream, projection in zip(branches, streams, self.projections, strict=True):
            seen = [
                tokens if stream is other else gather_latest(tokens, *latest(stream, other))
                for tokens, other in zip(normed, streams, strict=True)
            ]
            merged.append(own + projection(torch.cat(seen, dim=1)))
        return merged


class Reduce(nn.Module):
    """Makes one token of r.

    y_j = W [x_{rj}‖…‖x_{rj + r − 1}] + mean(x_{rj}, …, x_{rj + r − 1})

    Paper: GEM, pyramid; LLaTTE, token reduction with depth; no equation is public.
    Differs: all of it is ours. The rest of a segment makes no token, so up to r^(stages − 1) − 1 of
        the latest events are in no summary token; target attention reads them.
    """

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.projection = nn.Linear(factor * width, width)

    def forward(
        self, tokens: Float[Tensor, "N D"], members: Int64[Tensor, "n r"]
    ) -> Float[Tensor, "n D"]:
        parts = tokens.index_select(0, members.flatten()).unflatten(0, members.shape)  # n r D
        return self.projection(parts.flatten(1)) + parts.mean(dim=1)


class Upstream(nn.Module):
    """Parallel causal branches over timelines; every row reads them at its own cut-off.

    Stage 1 … K: s causal layers in each branch, then `Merge`, and before the next stage `Reduce`
    summary of branch p at a row = PMA_p(tokens of p that were complete at the row's cut-off)

    Nothing in `encode` knows a row or a candidate, so it runs once per segment, and what a row
    reads does not depend on other rows. The summary of a user at a moment is a vector to store.

    Paper: GEM (Meta engineering, 2025), pyramid-parallel structure; LLaTTE, upstream user model.
    Differs: GEM gives no equation, and LLaTTE's reduction and latent widths are not public;
        branches as windows or families of events, their merging and the reduction are ours. Times
        turn heads by the user's own clock (`user_clock`), for no impression is known here.

    Args:
        history: The configuration, with an upstream.
        width: D.
    """

    def __init__(self, history: HistoryConfig, width: int) -> None:
        super().__init__()
        config = history.upstream
        assert config is not None
        self.branches = config.branches
        self.columns = [field.name for field in history.fields]
        self.reduction = config.reduction
        num_branches, heads = len(config.branches), history.num_heads
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(
                    CausalLayer(width, heads, config.ffn_hidden)
                    for _ in range(config.layers_per_stage)
                )
                for _ in config.branches
            )
            for _ in range(config.num_stages)
        )
        self.merges = nn.ModuleList(
            Merge(width, num_branches) for _ in range(config.num_stages if num_branches > 1 else 0)
        )
        self.reductions = nn.ModuleList(
            nn.ModuleList(Reduce(width, config.reduction) for _ in config.branches)
            for _ in range(config.num_stages - 1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in config.branches)
        self.pools = nn.ModuleList(
            AttentionPooling(width, heads, config.num_summary_tokens) for _ in config.branches
        )
        self.default = nn.Parameter(
            torch.randn(num_branches, config.num_summary_tokens, width) * 0.02
        )

    def forward(self, events: Float[Tensor, "E D"], history: Timelines) -> Float[Tensor, "B S D"]:
        return self.read(*self.encode(events, history), history)

    def encode(
        self, events: Float[Tensor, "E D"], history: Timelines
    ) -> tuple[list[Float[Tensor, "_ D"]], list[Stream]]:
        """The last tokens of every branch, once for all rows."""
        tokens, streams = self._families(events, history)
        for index, stage in enumerate(self.stages):
            if index > 0:
                tokens, streams = self._reduced(self.reductions[index - 1], tokens, streams)
            tokens = self._layers(stage, tokens, streams)
            if self.merges:
                tokens = self.merges[index](tokens, streams)
        return tokens, streams

    def read(
        self, tokens: list[Float[Tensor, "_ D"]], streams: list[Stream], history: Timelines
    ) -> Float[Tensor, "B S D"]:
        """Summary tokens of each row at its cut-off, branch after branch."""
        order = history.segment.argsort(stable=True)
        rows = history.segment.bincount(minlength=len(history.offsets) - 1)
        row_offsets = torch.cat([rows.new_zeros(1), rows.cumsum(0)])
        summaries = []
        parts = zip(tokens, streams, self.norms, self.pools, self.default, strict=True)
        for each, stream, norm, pool, default in parts:
            start = stream.offsets[history.segment[order]]
            end = stream.known(history.end[order])
            k = len(default)
            windows = Windows(
                row_offsets * k,
                stream.offsets,
                start.repeat_interleave(k),
                end.repeat_interleave(k),
            )
            summary = pool(norm(each), windows).unflatten(0, (-1, k))
            summary = torch.where((end > start)[:, None, None], summary, default)
            summaries.append(summary.index_select(0, order.argsort()))
        return torch.cat(summaries, dim=1)

    def _families(
        self, events: Float[Tensor, "E D"], history: Timelines
    ) -> tuple[list[Float[Tensor, "_ D"]], list[Stream]]:
        every = Stream.of_events(history)
        families: dict[tuple[object, ...], tuple[Tensor, Stream]] = {(None, ()): (events, every)}
        for branch in self.branches:
            if (key := (branch.field, branch.values)) not in families:
                column = history.categorical[:, self.columns.index(str(branch.field))]
                values = torch.tensor(branch.values, device=column.device)
                stream, kept = select(every, torch.isin(column, values))
                families[key] = events.index_select(0, kept), stream
        found = [families[branch.field, branch.values] for branch in self.branches]
        return [tokens for tokens, _ in found], [stream for _, stream in found]

    def _reduced(
        self, reductions: nn.Module, tokens: list[Tensor], streams: list[Stream]
    ) -> tuple[list[Tensor], list[Stream]]:
        # Branches of one family go on sharing one stream.
        reduced = {id(stream): reduce(stream, self.reduction) for stream in streams}
        shorter = [reduced[id(stream)] for stream in streams]
        assert isinstance(reductions, nn.ModuleList)
        made = [
            module(each, members)
            for module, each, (_, members) in zip(reductions, tokens, shorter, strict=True)
        ]
        return made, [stream for stream, _ in shorter]

    def _layers(
        self, stage: nn.Module, tokens: list[Tensor], streams: list[Stream]
    ) -> list[Tensor]:
        assert isinstance(stage, nn.ModuleList)
        outputs = []
        parts = zip(stage, self.branches, tokens, streams, strict=True)
        for layers, branch, inputs, stream in parts:
            assert isinstance(layers, nn.ModuleList)
            windows, hidden = stream.causal(branch.window), inputs
            for layer in layers:
                hidden = layer(hidden, stream.clock, windows)
            outputs.append(hidden)
        return outputs


def num_parameters(history: HistoryConfig, width: int) -> int:
    """Parameters of an `Upstream`, in closed form."""
    config = history.upstream
    assert config is not None
    d, p, r, k = width, len(config.branches), config.reduction, config.num_summary_tokens
    layer = 4 * d + 3 * d * d + (d + 1) * d + (d + 1) * config.ffn_hidden
    layer += (config.ffn_hidden + 1) * d
    merge = p * (2 * d + (p * d + 1) * d) if p > 1 else 0
    reduce = p * (r * d + 1) * d
    pool = p * (2 * d + k * d + 2 * d * d + (d + 1) * d)
    stages = config.num_stages * (p * config.layers_per_stage * layer + merge)
    return stages + (config.num_stages - 1) * reduce + pool + p * k * d


def flops_per_segment(history: HistoryConfig, width: int, num_events: int) -> float:
    """Forward FLOPs of `Upstream.encode` and of pooling's keys, for one timeline.

    Families are counted as if each had all events. Only pairs that attention reads are counted.
    """
    config = history.upstream
    assert config is not None
    d, p, total, t = width, len(config.branches), 0.0, num_events
    for stage in range(config.num_stages):
        if stage > 0:
            t //= config.reduction
            total += p * t * 2 * config.reduction * d * d
        for branch in config.branches:
            w = min(t, branch.window or t)
            pairs = w * (w + 1) / 2 + (t - w) * w
            total += config.layers_per_stage * (
                t * (8 * d * d + 4 * d * config.ffn_hidden) + 4 * pairs * d
            )
        total += t * 2 * p * p * d * d if p > 1 else 0
    return total + p * t * 4 * d * d


def flops_per_row(history: HistoryConfig, width: int, num_events: int) -> float:
    """Forward FLOPs of `Upstream.read` for one row that knows so many events."""
    config = history.upstream
    assert config is not None
    tokens = num_events // config.reduction ** (config.num_stages - 1)
    return len(config.branches) * config.num_summary_tokens * (4 * tokens * width + 2 * width**2)
