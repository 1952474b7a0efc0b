"""The power law through (FLOPs, excess NE), with its uncertainty; numbers in, numbers out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.metrics import Interval

MIN_SIZES = 4
"""Two parameters and two degrees of freedom, by which a misfit can show."""
_DRAWS = 4_000
_MEGA = 1e6


class PowerLaw(NamedTuple):
    """excess NE = a (C / 10^6)^-b, C in forward FLOPs of a row."""

    scale: float
    """a: excess NE at a million FLOPs."""
    exponent: Interval
    """b with its 95 % interval."""
    r_squared: float
    """Share of the weighted variance of log excess that the law accounts for."""
    misfit: float
    """chi² per degree of freedom; above 1 the points lie off the line by more than their errors."""
    draws: np.ndarray
    """Bootstrap of (ln a, b), (draws, 2)."""


def fit_power_law(
    flops: np.ndarray, excess: np.ndarray, standard_errors: np.ndarray, seed: int = 0
) -> PowerLaw:
    """Fit by weighted least squares on logarithms.

    minimise Σ w_i (ln e_i − ln a + b ln C_i)²,  w_i = (e_i / s_i)²

    The interval is a parametric bootstrap: every ln e_i is drawn anew about the line, with the
    deviation s_i / e_i, times √misfit where that is above 1, so that points that lie badly widen
    it. The points are taken to be independent. They share their held-out rows, so what those have
    in common moves a more and b less than the interval says.

    Paper: Wukong (arXiv 2403.02545), section 5, which fits log loss against FLOPs.
    Differs: excess NE, so that the law can end at 0; weights and an interval.

    Args:
        flops: Forward FLOPs of a row, one per size.
        excess: Excess NE at each size.
        standard_errors: Of the excess.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are too few sizes, or a number is not positive and finite.
    """
    if not len(flops) == len(excess) == len(standard_errors) >= MIN_SIZES or (
        len(np.unique(flops)) < MIN_SIZES
    ):
        raise ValueError(
            f"flops, excess, standard_errors: a law needs {MIN_SIZES} different sizes with all "
            f"three numbers; found {len(np.unique(flops))}, {len(excess)} and "
            f"{len(standard_errors)}; run more cells, or raise the budget"
        )
    values = np.stack([flops, excess, standard_errors]).astype(np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(
            "flops, excess, standard_errors: numbers whose logarithm is taken are positive and "
            f"finite; found {values.tolist()}; leave out the sizes that diverged"
        )
    x, y = np.log(values[0] / _MEGA), np.log(values[1])
    deviation = values[2] / values[1]
    design = np.stack([np.ones_like(x), -x], axis=1) / deviation[:, None]
    solve = np.linalg.pinv(design)
    found = solve @ (y / deviation)
    line = found[0] - found[1] * x
    chi_squared = float((((y - line) / deviation) ** 2).sum())
    misfit = chi_squared / (len(x) - 2)
    mean = np.average(y, weights=deviation**-2)
    total = float((((y - mean) / deviation) ** 2).sum())
    noise = np.random.default_rng(seed).standard_normal((_DRAWS, len(x)))
    drawn = line + noise * deviation * np.sqrt(max(1.0, misfit))
    draws = (drawn / deviation) @ solve.T
    low, high = np.quantile(draws[:, 1], [0.025, 0.975])
    return PowerLaw(
        scale=float(np.exp(found[0])),
        exponent=Interval(float(found[1]), float(low), float(high)),
        r_squared=1.0 - chi_squared / total if total else float("nan"),
        misfit=misfit,
        draws=draws,
    )


def predict(law: PowerLaw, flops: float) -> Interval:
    """Excess NE at a size, with the 95 % interval of the law alone (no error of a new point)."""
    x = np.log(flops / _MEGA)
    low, high = np.quantile(np.exp(law.draws[:, 0] - law.draws[:, 1] * x), [0.025, 0.975])
    return Interval(law.scale * float(np.exp(-law.exponent.value * x)), float(low), float(high))
