"""How the true log-odds of each task are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.simulation.world import (
    HOUR_SHARES,
    HOURS_PER_PART,
    SURFACE_DOMAIN,
    SURFACE_SHARES,
    WIDTH,
    Array,
)

ORDERS = ("order_1", "order_2", "order_3", "order_4")


@dataclass(frozen=True)
class Task:
    """One task's coefficients; where there are three, they are blue's, violet's and amber's."""

    bias: tuple[float, float, float]
    order_1: tuple[float, float, float]
    order_2: tuple[float, float, float]
    order_3: tuple[float, float, float]
    order_4: tuple[float, float, float]
    history: tuple[float, float, float]
    journey: tuple[float, float, float]
    content: tuple[float, float, float]
    ad: float
    position: float
    signs: tuple[int, ...]
    """t."""

    def order_shares(self, domain: int) -> dict[str, float]:
        """Share of the interactions' variance that each order accounts for, in one domain."""
        squares = {order: getattr(self, order)[domain] ** 2 for order in ORDERS}
        return {order: square / sum(squares.values()) for order, square in squares.items()}


CLICK = Task(
    bias=(-3.14, -4.51, -5.5),
    order_1=(0.5, 0.4, 0.3),
    order_2=(0.5, 0.4, 0.5),
    order_3=(0.4, 0.6, 0.4),
    order_4=(0.3, 0.4, 0.6),
    history=(0.5, 0.6, 0.5),
    journey=(0.3, 0.3, 0.3),
    content=(0.4, 0.4, 0.5),
    ad=1.0,
    position=1.0,
    signs=(1, 1, 1, 1, 1, 1),
)
CONVERSION = Task(
    bias=(-2.92, -2.95, -3.2),
    order_1=(0.5, 0.5, 0.4),
    order_2=(0.4, 0.3, 0.4),
    order_3=(0.2, 0.4, 0.3),
    order_4=(0.2, 0.2, 0.4),
    history=(0.4, 0.3, 0.4),
    journey=(0.2, 0.3, 0.2),
    content=(0.5, 0.5, 0.4),
    ad=0.5,
    position=0.0,
    signs=(1, 1, 1, -1, 1, -1),
)


def contrasts(shares: Array) -> Array:
    """A vector for each of several kinds that share traffic, (kinds, WIDTH).

    In every coordinate they have mean 0 and mean square 1 over the traffic, so that a product with
    them is worth nothing to whoever does not know the kind. Helmert's contrasts, weighted: the i-th
    sets kind i against all kinds before it.
    """
    num = len(shares)
    basis = np.zeros((num, num - 1))
    for i in range(1, num):
        before, own = shares[:i].sum(), shares[i]
        basis[:i, i - 1] = np.sqrt(own / (before * (before + own)))
        basis[i, i - 1] = -np.sqrt(before / (own * (before + own)))
    coordinate = np.arange(WIDTH)
    return basis[:, coordinate % (num - 1)] * np.where(coordinate < WIDTH // 2, 1, -1)


SURFACE_VECTORS = np.concatenate(
    [contrasts(SURFACE_SHARES[d == SURFACE_DOMAIN]) for d in np.unique(SURFACE_DOMAIN)]
)
"""s, one row per surface."""
DAY_PART_VECTORS = contrasts(HOUR_SHARES.reshape(-1, HOURS_PER_PART).sum(axis=1))
"""d, one row per part of the day."""
