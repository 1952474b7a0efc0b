"""Gains, their ratios and intervals, over resampled seeds and users; numbers in, numbers out."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from model.metrics import MIN_STANDARD_ERRORS, Interval

_DRAWS = 4_000


class Losses(NamedTuple):
    """Divergence of one arm by seed and group of users, (seeds, groups)."""

    divergence: np.ndarray
    rows: np.ndarray
    """Judged rows of each group, (groups,)."""
    entropy: float
    """Of the mean true rate: divergence per row over it is excess NE."""


class Gain(NamedTuple):
    """How much lower one arm's excess NE is than another's."""

    interval: Interval
    standard_error: float
    draws: np.ndarray

    @property
    def is_clear(self) -> bool:
        """Whether it is at least 5 standard errors above zero."""
        return 0 < MIN_STANDARD_ERRORS * self.standard_error <= self.interval.value


class Ratio(NamedTuple):
    """A ratio of two gains, or why there is none."""

    interval: Interval | None
    reason: str | None


def gain(worse: Losses, better: Losses, seed: int = 0) -> Gain:
    """Excess NE of one arm less that of another, in paired seeds and the same users.

    Draws take seeds with replacement and, independently, groups of users with replacement; a group
    brings its rows of every seed, as users are the same in all. Gains of one study that are given
    the same `seed` share their draws, so that ratios of them are paired.

    Raises:
        ValueError: The arms do not have the same seeds, or groups.
    """
    if worse.divergence.shape != better.divergence.shape or not np.array_equal(
        worse.rows, better.rows
    ):
        raise ValueError(
            "gain: two arms are compared on the same seeds and rows; found "
            f"{worse.divergence.shape} and {better.divergence.shape}; leave out the seeds that "
            "either lacks"
        )
    difference = worse.divergence - better.divergence
    num_seeds, num_groups = difference.shape
    seeds, groups = _drawn(num_seeds, num_groups, seed)
    total = ((seeds @ difference) * groups).sum(axis=1)
    draws = total / (groups @ worse.rows) / worse.entropy
    value = float(difference.mean(axis=0).sum() / worse.rows.sum() / worse.entropy)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Gain(Interval(value, float(low), float(high)), float(draws.std()), draws)


@lru_cache(maxsize=8)
def _drawn(num_seeds: int, num_groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of each seed and number of each group in every draw."""
    rng = np.random.default_rng(seed)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), _DRAWS)
    groups = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), _DRAWS)
    return seeds / num_seeds, groups.astype(np.float64)


def ratio(numerator: Gain, denominator: Gain, what: str) -> Ratio:
    """One gain over another, with its percentile interval over their common draws.

    Paper: Rec-Distill (arXiv 2605.29755), eta, where the denominator is the teacher's gain.
    Differs: refused where the denominator is under 5 standard errors: it is then noise.

    Args:
        numerator: A gain.
        denominator: Another one, drawn with the same seed.
        what: Whose gain the denominator is, for the reason.
    """
    if not denominator.is_clear:
        return Ratio(
            None,
            f"the gain of {what} is {100 * denominator.interval.value:.3f} pp, its standard error "
            f"{100 * denominator.standard_error:.3f}: fewer than {MIN_STANDARD_ERRORS:g} of these",
        )
    draws = numerator.draws / denominator.draws
    low, high = np.quantile(draws, [0.025, 0.975])
    value = numerator.interval.value / denominator.interval.value
    return Ratio(Interval(value, float(low), float(high)), None)
