"""Gains of arms of the study of distillation, their ratios, and what their intervals promise."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.transfer import results
from jobs.transfer.gains import Losses, gain, ratio
from jobs.transfer.settings import Study


def losses(divergence: float, noise: float, seed: int) -> Losses:
    """Arms of five seeds and fifty groups of ten rows; the noise is each arm's own."""
    rng = np.random.default_rng(seed)
    drawn = 10 * divergence + noise * rng.standard_normal((5, 50))
    return Losses(drawn, np.full(50, 10), 0.25)


def test_gain_is_the_difference_of_excess_and_its_draws_are_those_of_a_loop():
    worse, better = losses(0.04, 0.01, 0), losses(0.03, 0.01, 1)
    found = gain(worse, better)
    rows, entropy = worse.rows.sum(), worse.entropy
    excess = [each.divergence.sum() / 5 / rows / entropy for each in (worse, better)]
    assert found.interval.value == pytest.approx(excess[0] - excess[1])
    rng = np.random.default_rng(0)
    seeds = rng.multinomial(5, np.full(5, 0.2), 4_000)
    groups = rng.multinomial(50, np.full(50, 0.02), 4_000)
    for draw in (0, 1, 3_999):
        total, drawn_rows = 0.0, 0
        for group, times in enumerate(groups[draw]):
            drawn_rows += times * worse.rows[group]
            for seed, chosen in enumerate(seeds[draw]):
                difference = worse.divergence[seed, group] - better.divergence[seed, group]
                total += times * chosen / 5 * difference
        assert found.draws[draw] == pytest.approx(total / drawn_rows / entropy)


def test_interval_of_a_gain_covers_the_truth_about_as_often_as_it_says():
    held = []
    for seed in range(200):
        interval = gain(losses(0.04, 0.05, 2 * seed), losses(0.03, 0.05, 2 * seed + 1)).interval
        held.append(interval.low <= 0.01 / 0.25 <= interval.high)
    assert 0.85 <= np.mean(held) <= 1.0


def test_ratio_of_gains_and_its_interval():
    twin, half, whole = (losses(d, 0.002, i) for i, d in enumerate((0.05, 0.04, 0.03)))
    found = ratio(gain(twin, half), gain(twin, whole), "the teacher")
    assert found.interval is not None
    assert found.interval.low < 0.5 < found.interval.high
    assert found.interval.high - found.interval.low < 0.1


def test_ratio_to_a_gain_within_its_noise_is_refused():
    twin, kd, full = losses(0.04, 0.2, 0), losses(0.039, 0.2, 1), losses(0.01, 0.2, 2)
    found = ratio(gain(twin, full), gain(twin, kd), "tuned distillation")
    assert found.interval is None
    assert found.reason is not None
    assert "the gain of tuned distillation is" in found.reason


def test_a_harm_has_no_ratio():
    twin, kd, full = losses(0.03, 0.001, 0), losses(0.04, 0.001, 1), losses(0.01, 0.001, 2)
    assert ratio(gain(twin, full), gain(twin, kd), "tuned distillation").interval is None


def test_arms_of_different_seeds_are_not_compared():
    one = losses(0.03, 0.001, 0)
    with pytest.raises(ValueError, match="same seeds and rows; found"):
        gain(one, Losses(one.divergence[:3], one.rows, one.entropy))


def eta_line(arm: str, variant: str, divergence: float, seed: int) -> results.Line:
    twin, teacher = losses(0.05, 0.002, 0), losses(0.03, 0.002, 1)
    won, possible = gain(twin, losses(divergence, 0.002, seed)), gain(twin, teacher)
    eta = None if arm == "teacher" else ratio(won, possible, "the teacher")
    named = ("small", "unbiased", 1, arm, variant)
    return results.Line(*named, 5, 0.1, 0.9, 1.0, won, eta, None, None, None, None, [])


@pytest.mark.parametrize(("stalest", "verdict"), [(0.045, "met"), (0.04, "missed")])
def test_eta_that_does_not_fall_from_each_delay_to_the_next_is_missed(stalest, verdict):
    lines = [
        eta_line("teacher", "", 0.03, 1),
        eta_line("vector_alone", "6 h", 0.038, 2),
        eta_line("vector_alone", "", 0.042, 3),
        eta_line("vector_alone", "48 h", stalest, 4),
    ]
    delayed = Study(delays=(6, 48))
    (told,) = results.by_delay(delayed, lines)
    assert told.startswith("refresh of vector_alone (small, unbiased, 1 d): 0.6")
    assert told.endswith(f": {verdict}")
