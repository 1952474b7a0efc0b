"""A teacher's activations compressed, evening after evening, for students to read."""

from __future__ import annotations

import torch
from torch import Tensor

from model.representations.autoencoder import MatryoshkaAutoencoder, reconstruction_loss
from model.representations.config import AutoencoderConfig, Bits
from model.representations.quantise import quantise

_LEARNING_RATE, _BATCH_SIZE = 3e-3, 512
_FIRST_PASSES, _PASSES = 6, 1
"""Passes over an evening's rows: the first evening starts from nothing."""


class Compressor:
    """A Matryoshka autoencoder that goes on learning as the teacher behind it does.

    Paper: LoopFM (arXiv 2605.29280).
    Differs: warm-started every evening, so that codes of successive days stay comparable.

    Args:
        input_dim: Width of the activations.
        dim: Width of the latent.
        bits: Bits of a stored number.
        seed: Of the initial weights.
        device: Where it learns.
    """

    def __init__(
        self, input_dim: int, dim: int, bits: Bits, seed: int, device: torch.device
    ) -> None:
        prefixes = tuple(sorted({max(1, dim // 4), max(1, dim // 2), dim}))
        config = AutoencoderConfig(input_dim=input_dim, prefixes=prefixes, bits=bits)
        self.bits: Bits = bits
        self.autoencoder = MatryoshkaAutoencoder(config, seed).to(device)
        self.optimizer = torch.optim.AdamW(
            self.autoencoder.parameters(), lr=_LEARNING_RATE, weight_decay=0.0
        )
        self.error = float("nan")
        """Squared error of the last batch at full width; 1 is that of knowing nothing."""

    def learn(self, activations: Tensor) -> None:
        """Go on learning from activations of rows that the teacher has learnt, (rows, R)."""
        passes = _PASSES
        if int(self.autoencoder.normaliser.num_fitted_rows) == 0:
            self.autoencoder.normaliser.fit(activations)
            passes = _FIRST_PASSES
        for _ in range(passes):
            for part in activations.split(_BATCH_SIZE):
                target, reconstructed = self.autoencoder(part)
                every = torch.ones(len(part), dtype=torch.bool, device=part.device)
                losses = reconstruction_loss(target, reconstructed, every, every.sum().float())
                self.optimizer.zero_grad()
                losses.sum().backward()
                self.optimizer.step()
                self.error = float(losses.detach()[-1])

    @torch.no_grad()
    def codes(self, activations: Tensor) -> Tensor:
        """Integers of the latent, (rows, V), on the CPU."""
        return quantise(self.autoencoder.encode(activations), self.bits).cpu()
