"""InterFormer: both sides learn of each other in every layer, and neither is summarised early.

Paper: InterFormer (arXiv 2411.09852), sections on the Interaction, Sequence and Cross arches.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.batch import Timelines
from model.config import RankerConfig
from model.events import NUM_AGE_KNOTS
from model.interaction import cross_layer, kinds
from model.interaction.config import Interaction
from model.interaction.cross_layer import CrossLayers
from model.mlp import mlp_flops, mlp_num_parameters
from model.sequence_arch import (
    RowSequence,
    SequenceArch,
    SequenceInput,
    SequenceSummary,
    TokenSummary,
)


class InterFormerLayer(nn.Module):
    """One layer; what a side learns of the other was summarised before the layer.

    X_sum = Gate(LCE(X)),  S_sum = Gate([S_cls ‖ S_pma ‖ S_recent])
    X ← Interact([X ‖ S_sum]),  S ← MHA(PFFN(X_sum, S))

    Paper: InterFormer, Cross, Interaction and Sequence arch, in this order.
    Differs: the interaction is given from outside and puts out tokens itself, so the MLP that
        restores their number is part of it. Where the flow keeps a side to itself, X goes on alone,
        and learned tokens stand for X_sum.

    Args:
        ranker: The ranker's configuration, with an interformer.
        num_tokens: Tokens of X that come in.
        layer: The layer's Interaction arch.
    """

    def __init__(self, ranker: RankerConfig, num_tokens: int, layer: Interaction) -> None:
        super().__init__()
        history, width = ranker.history, ranker.width
        assert history is not None
        config = history.interformer
        assert config is not None
        self.token_summary = self.context = self.sequence_summary = self.sequence = None
        num_inputs = num_tokens
        if config.flow in ("two_way", "ns_to_s"):
            self.token_summary = TokenSummary(config, width, num_tokens)
        elif config.flow != "single":
            self.context = nn.Parameter(torch.randn(config.num_cls_tokens, width))
        if config.flow in ("two_way", "s_to_ns"):
            self.sequence_summary = SequenceSummary(history, width)
            num_inputs += config.num_sequence_tokens
        if config.flow != "single":
            self.sequence = SequenceArch(history, width)
        self.interaction = kinds.build_interaction(layer, num_inputs, width)

    def summarise(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        """X_sum, or what stands for it."""
        if self.token_summary is not None:
            return self.token_summary(tokens)
        assert self.context is not None, "a flow without sequence summarises nothing"
        return self.context.expand(len(tokens), -1, -1)

    def forward(
        self,
        tokens: Float[Tensor, "B n D"],
        sequence: RowSequence | None,
        token_summary: Float[Tensor, "B m D"] | None,
    ) -> tuple[Float[Tensor, "B n2 D"], RowSequence | None]:
        inputs = tokens
        if self.sequence_summary is not None:
            inputs = torch.cat([tokens, self.sequence_summary(sequence)], dim=1)
        outputs = self.interaction(inputs)
        if self.sequence is not None:
            sequence = self.sequence(token_summary, sequence)
        return outputs, sequence


class InterFormer(nn.Module):
    """The stack, from tokens and events to the summary of both.

    X¹ the row's tokens,  S¹ = [X_sum¹ ‖ MaskNet(events)],  then layer after layer, each X^l seen
    through the cross-layer connections of the stack where it has any
    out = [X_sum ‖ S_sum] of what the last layer puts out

    Paper: InterFormer; CLS tokens are prepended once, before the first layer.
    Differs: events enter with their age at the row, and are turned by its logarithm (ROTE).

    Args:
        ranker: The ranker's configuration, with an interformer.
    """

    def __init__(self, ranker: RankerConfig) -> None:
        super().__init__()
        history, width = ranker.history, ranker.width
        assert history is not None
        config = history.interformer
        assert config is not None
        layers, num_outputs = _layers(ranker)
        has_sequence = config.flow != "single"
        self.input = SequenceInput(history, width) if has_sequence else None
        self.layers = nn.ModuleList(
            InterFormerLayer(ranker, num_tokens, layer) for num_tokens, layer in layers
        )
        connections = kinds.cross_layer(ranker.interaction)
        counts = [num_tokens for num_tokens, _ in layers]
        self.cross_layers = CrossLayers(connections, counts, width) if connections else None
        self.token_summary = TokenSummary(config, width, num_outputs)
        self.sequence_summary = SequenceSummary(history, width) if has_sequence else None

    def forward(
        self, tokens: Float[Tensor, "B n D"], events: Float[Tensor, "E D"], history: Timelines
    ) -> Float[Tensor, "B m D"]:
        sequence = None
        earlier: list[Tensor] = []
        for layer in self.layers:
            assert isinstance(layer, InterFormerLayer)
            if self.cross_layers is not None:
                tokens = self.cross_layers(tokens, earlier)
            summary = None
            if self.input is not None:
                summary = layer.summarise(tokens)
                if sequence is None:
                    sequence = self.input(summary, events, history)
            tokens, sequence = layer(tokens, sequence, summary)
        summaries = [self.token_summary(tokens)]
        if self.sequence_summary is not None:
            summaries.append(self.sequence_summary(sequence))
        return torch.cat(summaries, dim=1)


def num_parameters(ranker: RankerConfig) -> int:
    """Parameters of an `InterFormer`, in closed form."""
    assert ranker.history is not None
    config = ranker.history.interformer
    assert config is not None
    d, m, s = ranker.width, config.num_cls_tokens, config.num_sequence_tokens
    gate = mlp_num_parameters((d, d, d))
    pool = config.num_pma_tokens * d + 2 * d * d + (d + 1) * d + gate
    arch = m * d + 4 * d + 3 * d * d + (d + 1) * d
    layers, num_outputs = _layers(ranker)
    to_interaction, to_sequence = _flows(config.flow)
    total = m * num_outputs + gate
    if connections := kinds.cross_layer(ranker.interaction):
        total += cross_layer.num_parameters(connections, [n for n, _ in layers], d)
    if config.flow != "single":
        total += pool + gate + (d + 1) * d + NUM_AGE_KNOTS * d
    for n, layer in layers:
        total += kinds.num_parameters(layer, n + s if to_interaction else n, d)
        total += pool if to_interaction else 0
        if config.flow != "single":
            total += arch + (m * n + gate if to_sequence else m * d)
    return total


def flops_per_event(ranker: RankerConfig) -> int:
    """Forward FLOPs of an `InterFormer` for one event, whatever the number of its rows."""
    assert ranker.history is not None and ranker.history.interformer is not None
    if ranker.history.interformer.flow == "single":
        return 0
    d = ranker.width
    return mlp_flops((d, d, d)) + 2 * d**2


def flops_per_row(ranker: RankerConfig, num_events: float) -> float:
    """Forward FLOPs of an `InterFormer` for one row that reads so many events."""
    assert ranker.history is not None
    config = ranker.history.interformer
    assert config is not None
    d, m, s, k = (
        ranker.width,
        config.num_cls_tokens,
        config.num_sequence_tokens,
        config.num_pma_tokens,
    )
    length = m + num_events
    gate = mlp_flops((d, d, d))
    pool = length * (4 * d * d + 4 * k * d) + 2 * k * d * d + s * gate
    arch = length * (4 * m * d + 8 * d * d + 4 * length * d)
    layers, num_outputs = _layers(ranker)
    to_interaction, to_sequence = _flows(config.flow)
    total = m * (2 * num_outputs * d + gate)
    if connections := kinds.cross_layer(ranker.interaction):
        total += cross_layer.flops(connections, [n for n, _ in layers], d)
    if config.flow != "single":
        total += pool + num_events * 2 * NUM_AGE_KNOTS * d
    for n, layer in layers:
        total += kinds.flops(layer, n + s if to_interaction else n, d)
        total += pool if to_interaction else 0
        if config.flow != "single":
            total += arch + (m * (2 * n * d + gate) if to_sequence else 0)
    return total


def _layers(ranker: RankerConfig) -> tuple[list[tuple[int, Interaction]], int]:
    """Tokens of X into each layer with its Interaction arch, and tokens out of the last."""
    assert ranker.history is not None and ranker.history.interformer is not None
    config = ranker.history.interformer
    learnt = config.num_sequence_tokens if _flows(config.flow)[0] else 0
    num_tokens, found = ranker.num_tokens, []
    for layer in kinds.single_layers(ranker.interaction):
        found.append((num_tokens, layer))
        num_tokens = layer.num_output_tokens(num_tokens + learnt, ranker.width)
    return found, num_tokens


def _flows(flow: str) -> tuple[bool, bool]:
    """Whether the interaction learns of the sequence, and the sequence of the tokens."""
    return flow in ("two_way", "s_to_ns"), flow in ("two_way", "ns_to_s")
