"""The parts of InterFormer: the gate, both summaries, and the Sequence arch of a layer.

Paper: InterFormer (arXiv 2411.09852).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from model.attention.blocks import AttentionPooling, SelfAttention
from model.attention.rotary import log_time
from model.attention.windows import Windows
from model.batch import Timelines
from model.config import HistoryConfig
from model.events import AgeEncoding
from model.interaction.compress import LinearCompressBlock
from model.mlp import MLP
from model.sequence_config import InterFormerConfig


@dataclass(frozen=True, eq=False)
class RowSequence:
    """A sequence for each row: its CLS tokens, then its events from the oldest to the latest.

    Args:
        tokens: All rows' tokens, row after row.
        offsets: First token of each row and, last, their number.
        row: Row of each token.
        tau: Logarithm of each token's age at its row; 0 for CLS tokens.
    """

    tokens: Float[Tensor, "N D"]
    offsets: Int64[Tensor, " num_offsets"]
    row: Int64[Tensor, " N"]
    tau: Float64[Tensor, " N"]


class Gate(nn.Module):
    """Self-gating: act(Z ⊙ MLP(Z)).

    Paper: InterFormer, Cross arch.
    Differs: one hidden layer of width D; the last bias starts at 1, so that with the identity as
        activation a fresh gate is nearly open.
    """

    def __init__(self, config: InterFormerConfig, width: int) -> None:
        super().__init__()
        activations = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": torch.clone}
        self.activation = activations[config.gate]
        self.mlp = MLP((width, width, width))
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.ones_(last.bias)

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B n D"]:
        return self.activation(tokens * self.mlp(tokens))


class TokenSummary(nn.Module):
    """X_sum = Gate(LCE(X)),  LCE(X) = W X,  W: m × n.

    Paper: InterFormer, Cross arch.
    Differs: none.
    """

    def __init__(self, config: InterFormerConfig, width: int, num_tokens: int) -> None:
        super().__init__()
        self.compress = LinearCompressBlock(num_tokens, config.num_cls_tokens)
        self.gate = Gate(config, width)

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        return self.gate(self.compress(tokens))


class SequenceSummary(nn.Module):
    """S_sum = Gate([S_cls ‖ S_pma ‖ S_recent]).

    Paper: InterFormer, Cross arch.
    Differs: a row with fewer events than recent tokens takes its last CLS tokens in their place.
    """

    def __init__(self, history: HistoryConfig, width: int) -> None:
        super().__init__()
        config = history.interformer
        assert config is not None
        self.num_cls, self.num_recent = config.num_cls_tokens, config.num_recent_tokens
        self.num_pma = config.num_pma_tokens
        self.pool = AttentionPooling(width, history.num_heads, config.num_pma_tokens)
        self.gate = Gate(config, width)

    def forward(self, sequence: RowSequence) -> Float[Tensor, "B S D"]:
        tokens, offsets = sequence.tokens, sequence.offsets
        first = offsets[:-1, None] + torch.arange(self.num_cls, device=offsets.device)
        recent = offsets[1:, None] + torch.arange(-self.num_recent, 0, device=offsets.device)
        # B cls+recent D, in one look-up
        ends = tokens[torch.cat([first, recent], dim=1)]
        pooled = self.pool(tokens, Windows.of_rows(offsets, self.num_pma))
        pooled = pooled.unflatten(0, (-1, self.num_pma))
        cls, latest = ends.split([self.num_cls, self.num_recent], dim=1)
        return self.gate(torch.cat([cls, pooled, latest], dim=1))


class PersonalizedFFN(nn.Module):
    """A feed-forward layer whose weight the row's features make.

    PFFN(X_sum, s) = (X_sumᵀ W_p) s,  X_sum: m × D,  W_p: m × D

    The D × D matrix is of rank m, so it is never formed: W_p s comes first.

    Paper: InterFormer, Sequence arch.
    Differs: W_p starts normal with deviation 0.02, so that a fresh layer passes S on nearly as it
        is.
    """

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tokens, width) * 0.02)

    def forward(
        self,
        token_summary: Float[Tensor, "B m D"],
        tokens: Float[Tensor, "N D"],
        row: Int64[Tensor, " N"],
    ) -> Float[Tensor, "N D"]:
        shares = tokens @ self.weight.T  # N m
        return torch.bmm(shares[:, None], token_summary.index_select(0, row))[:, 0]


class SequenceArch(nn.Module):
    """S ← MHA(PFFN(X_sum, S)).

    S ← S + PFFN(X_sum, LN(S)),  S ← S + MHA(LN(S))

    Paper: InterFormer, Sequence arch; it gives neither norms nor residuals.
    Differs: norms before, and residuals around, both parts; heads are turned by ROTE.
    """

    def __init__(self, history: HistoryConfig, width: int) -> None:
        super().__init__()
        assert history.interformer is not None
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = PersonalizedFFN(width, history.interformer.num_cls_tokens)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, history.num_heads)

    def forward(self, token_summary: Float[Tensor, "B m D"], sequence: RowSequence) -> RowSequence:
        tokens = sequence.tokens
        tokens = tokens + self.ffn(token_summary, self.ffn_norm(tokens), sequence.row)
        windows = Windows.within(sequence.offsets)
        tokens = tokens + self.attention(self.attention_norm(tokens), sequence.tau, windows)
        return replace(sequence, tokens=tokens)


class SequenceInput(nn.Module):
    """S¹: CLS tokens, then the masked events with their age.

    MaskNet(x) = W_lce (x ⊙ MLP_mask(x)),  S¹ = [X_sum¹ ‖ MaskNet(x_e) + a(t_b − t_e)]

    Paper: InterFormer, preprocessing (MaskNet, and X_sum¹ as CLS tokens).
    Differs: there is one sequence, already D wide. MaskNet does not know the row and runs once per
        event; the age is added for each row.
    """

    def __init__(self, history: HistoryConfig, width: int) -> None:
        super().__init__()
        assert history.interformer is not None
        self.max_events = history.interformer.max_events
        self.mask = MLP((width, width, width))
        self.compress = nn.Linear(width, width)
        self.age = AgeEncoding(width)

    def forward(
        self,
        cls_tokens: Float[Tensor, "B m D"],
        events: Float[Tensor, "E D"],
        history: Timelines,
    ) -> RowSequence:
        read = history.row_events(self.max_events)
        age_us = history.row_us[read.row] - history.event_us[read.event]
        masked = self.compress(events * self.mask(events))
        tokens = masked.index_select(0, read.event) + self.age(age_us)  # P D
        num_rows, num_cls, width = cls_tokens.shape
        device = read.offsets.device
        offsets = read.offsets + num_cls * torch.arange(num_rows + 1, device=device)
        first = (offsets[:-1, None] + torch.arange(num_cls, device=device)).flatten()
        place = torch.arange(len(tokens), device=device) + num_cls * (read.row + 1)
        block = tokens.new_zeros(len(tokens) + len(first), width)
        block = block.index_copy(0, first, cls_tokens.flatten(0, 1).to(tokens.dtype))
        block = block.index_copy(0, place, tokens)
        tau = torch.zeros(len(block), dtype=torch.float64, device=device)
        tau = tau.index_copy(0, place, log_time(age_us))
        rows = torch.arange(num_rows, device=device).repeat_interleave(offsets.diff())
        return RowSequence(block, offsets, rows, tau)
