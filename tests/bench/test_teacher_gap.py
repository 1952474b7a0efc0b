"""What the arm that is told the truth reads is the truth, and the share closed is of the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jobs import simulation
from jobs.simulation import PRESETS
from tests.bench import bench_teacher_gap as bench
from tests.bench.sweep import Cell, share_closed
from tests.bench.worlds import open_days

WORLD = PRESETS["world-1"].world


def test_components_are_all_of_the_log_odds_but_the_confounder_and_rates_of_domain_and_ad():
    days = [*simulation.days(WORLD, 0, 2)]
    shown = [day.impressions for day in days]
    left = np.concatenate([bench._logit(day.truth["p_click_without_confounder"]) for day in days])
    left -= bench.components(WORLD, 2).double().numpy().sum(axis=1)
    domain = np.concatenate([each["domain"] for each in shown])
    ad = np.concatenate(
        [day.ads.number[each["slot"]] for day, each in zip(days, shown, strict=True)]
    )
    _, group = np.unique(np.stack([domain, ad]), axis=1, return_inverse=True)
    mean = np.bincount(group, left) / np.bincount(group)
    # The mean over the confounder lies a little nearer to 0 than the log-odds without it.
    assert np.abs(left - mean[group]).max() < 0.15
    assert left.std() > 0.3


@pytest.mark.parametrize("arm", bench.ARMS)
def test_every_arm_learns_and_is_judged_on_the_last_day(arm):
    days = open_days("world-1", 3)
    told = bench.Told(days, bench.components(WORLD, 3), bench.category_counts(days.stream))
    outcome = bench.run_cell(told, Cell(arm, 1, 0), "cpu")
    assert outcome.judged.shape == (len(days.judged), 1)
    assert 0.5 < outcome.tuned_ne < 1.2


def test_counts_are_those_of_a_loop_over_the_latest_events():
    stream = open_days("world-1", 3).stream
    shares = bench.category_counts(stream).reshape(-1, bench.NUM_TYPES, 5)
    category = stream.categorical[:, bench.FIELDS.index("category")]
    for row in range(0, len(stream.users), 301):
        events = stream.event_categorical[stream.first_event[row] : stream.end_event[row]]
        for place, window in enumerate(bench.HISTORY_WINDOWS):
            latest = events[-window:]
            about = latest[latest[:, 0] == category[row]]
            for number in range(bench.NUM_TYPES):
                found = int((about[:, 1] == number + 1).sum()) / window
                assert shares[row, number, place].item() == pytest.approx(found)
    assert shares.sum() > 0


def test_share_closed_is_one_at_the_end_of_the_way_and_none_at_its_start():
    rng = np.random.default_rng(0)
    p_star, users = rng.uniform(0.1, 0.9, 400), rng.integers(0, 40, 400)
    floor = np.full((2, 400), p_star.mean())
    best = np.stack([p_star, p_star])
    assert share_closed(p_star, floor, best, best, users) == {"value": 1, "low": 1, "high": 1}
    assert share_closed(p_star, floor, floor, best, users)["value"] == 0
    half = share_closed(p_star, floor, (floor + best) / 2, best, users)
    assert 0.5 < half["low"] <= half["value"] <= half["high"] < 1


def test_rows_of_the_told_arm_are_those_of_the_stream():
    days = open_days("world-1", 3)
    assert len(bench.components(WORLD, 3)) == len(days.stream.users)
    assert torch.isfinite(bench.components(WORLD, 3)).all()
