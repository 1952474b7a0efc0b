"""A teacher's user and ad vectors whose product says what it thinks of the two together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.mlp import MLP
from model.representations.quantise import dequantise, quantise

_HIDDEN = 64
_LEARNING_RATE, _BATCH_SIZE = 3e-3, 512
_FIRST_PASSES, _PASSES = 6, 2
"""Passes over an evening's rows: the first evening starts from nothing."""


class Matcher(nn.Module):
    """Two towers and a gate, which go on learning the teacher's log-odds every evening.

    m = g(c) ⊙ U(u) ⊙ A(a)      z ≈ Σ_k m_k + w_u · u + w_a · a + w_c · c + b
    U, A = tanh(MLP),  g linear, about 1 at the start

    u, a and c are what the teacher's tables and tokens say of the user, the ad and the context. U
    and A are cached, INT8, and the gate is a linear map that the student takes over, so m costs a
    few hundred operations at serving.

    Paper: SUM (arXiv 2311.09544), cached user vectors; Foundation-Expert (arXiv 2508.02929),
        vectors that know the target; parameter sharing (GEM, Meta engineering, 2025).
    Differs: nobody's equation; a factorised head of the teacher.

    Args:
        user_dim: Width of u.
        ad_dim: Width of a.
        context_dim: Width of c.
        dim: Width of m.
        seed: Of the initial weights.
        device: Where it learns.
    """

    def __init__(
        self,
        user_dim: int,
        ad_dim: int,
        context_dim: int,
        dim: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.user = MLP((user_dim, _HIDDEN, dim))
            self.ad = MLP((ad_dim, _HIDDEN, dim))
            self.gate = nn.Linear(context_dim, dim)
            self.rest = nn.Linear(user_dim + ad_dim + context_dim, 1)
        nn.init.ones_(self.gate.bias)
        self.to(device)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
        self.num_evenings = 0
        self.error = float("nan")
        """Squared error of the last batch over the variance of its log-odds."""

    def forward(self, user: Tensor, ad: Tensor, context: Tensor) -> Tensor:
        matched = self.gate(context) * torch.tanh(self.user(user)) * torch.tanh(self.ad(ad))
        return matched.sum(dim=1) + self.rest(torch.cat([user, ad, context], dim=1))[:, 0]

    def learn(self, user: Tensor, ad: Tensor, context: Tensor, logits: Tensor) -> None:
        """Go on learning from rows that the teacher has learnt."""
        for _ in range(_PASSES if self.num_evenings else _FIRST_PASSES):
            for part in torch.arange(len(logits), device=logits.device).split(_BATCH_SIZE):
                error = (self(user[part], ad[part], context[part]) - logits[part]).square().mean()
                self.optimizer.zero_grad()
                error.backward()
                self.optimizer.step()
                self.error = float(error.detach() / logits[part].var())
        self.num_evenings += 1

    @torch.no_grad()
    def matched(self, user: Tensor, ad: Tensor, context: Tensor) -> Tensor:
        """m of rows, from vectors of users and ads as they are stored, (rows, dim), on the CPU."""
        stored = (
            dequantise(quantise(torch.tanh(tower(given)), 8), 8)
            for tower, given in ((self.user, user), (self.ad, ad))
        )
        return (self.gate(context) * torch.stack(tuple(stored)).prod(dim=0)).cpu()
