"""Steps of a pass whose learning rates rise over its first tenth and fall to 0 over the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.optim import Optimizers

_WARM_UP_RATIO = 0.1


def take_step(
    loss: torch.Tensor, optimizers: Optimizers, rates: Sequence[float], share: float
) -> None:
    """Move all weights once.

    Args:
        loss: Of the step's rows.
        optimizers: Of the dense weights and of the tables.
        rates: Their learning rates at the peak.
        share: Of the pass that is over with this step, up to 1.
    """
    factor = min(share / _WARM_UP_RATIO, (1 - share) / (1 - _WARM_UP_RATIO))
    for optimizer, lr in zip(optimizers, rates, strict=True):
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
