"""Sweeps choose by tuning alone, resume, and compare seeds and users in pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model import metrics
from tests.bench.sweep import (
    SEEDS,
    Cell,
    Outcome,
    Sweep,
    excess_difference,
    relative_difference,
    relative_mean,
)


def open_run(offset: float):
    def run(cell: Cell) -> Outcome:
        return Outcome(offset + abs(cell.setting - 1), np.full((2, 1), cell.seed, np.float32))

    return run


def test_every_setting_runs_once_and_the_best_with_every_seed(tmp_path):
    sweep = Sweep(tmp_path, ["a", "b"], 3)
    sweep.run(open_run, (0.5,), workers=1, seconds=60)
    assert [sweep.setting(arm) for arm in ("a", "b")] == [1, 1]
    lines = [json.loads(line) for line in sweep.path.read_text().splitlines()]
    assert len(lines) == 2 * (3 + len(SEEDS) - 1)
    told = sweep.judged("a")
    assert told is not None
    assert told[:, 0, 0].tolist() == list(SEEDS)
    assert Sweep(tmp_path, ["a", "b"], 3).missing() == []
    assert (sweep.num_seeds(), Sweep(tmp_path, ["a", "b", "c"], 3).num_seeds()) == (len(SEEDS), 0)
    del sweep.done[Cell("b", 1, 2)]
    assert sweep.num_seeds() == 2
    assert sweep.judged("b") is None
    partly = sweep.judged("b", 2)
    assert partly is not None and partly[:, 0, 0].tolist() == [0, 1]


def test_past_the_deadline_nothing_starts(tmp_path):
    sweep = Sweep(tmp_path, ["a"], 2)
    sweep.run(open_run, (0.0,), workers=1, seconds=0)
    assert (sweep.done, sweep.judged("a")) == ({}, None)


def test_the_difference_is_that_of_the_mean_losses():
    draw = np.random.default_rng(0)
    y, users = (draw.random(500) < 0.3).astype(float), draw.integers(0, 60, 500)
    own, other = draw.uniform(0.2, 0.4, (2, 3, 500))
    found = relative_difference(y, own, other, users)
    ne = [np.mean([metrics.ne(y, p) for p in each]) for each in (own, other)]
    assert found["value"] == pytest.approx(ne[0] / ne[1] - 1, abs=1e-5)
    assert found["low"] < found["value"] < found["high"]
    same = relative_difference(y, own, own, users)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_mean_of_tasks_is_that_of_their_differences():
    draw = np.random.default_rng(2)
    labels, users = (draw.random((500, 2)) < 0.3).astype(float), draw.integers(0, 60, 500)
    mask = draw.random((500, 2)) < 0.9
    own, other = draw.uniform(0.2, 0.4, (2, 3, 500, 2))
    found = relative_mean(labels, mask, own, other, users)
    each = [
        relative_difference(labels[at, t], own[:, at, t], other[:, at, t], users[at])["value"]
        for t, at in enumerate(mask.T)
    ]
    assert found["value"] == pytest.approx(np.mean(each), abs=1e-5)
    assert found["low"] < found["value"] < found["high"]
    alone = relative_mean(labels[:, :1], mask[:, :1] | True, own[..., :1], other[..., :1], users)
    assert alone == relative_difference(labels[:, 0], own[..., 0], other[..., 0], users)


def test_the_difference_in_excess_is_that_of_the_means_in_points():
    draw = np.random.default_rng(1)
    p_star, users = draw.uniform(0.05, 0.4, 500), draw.integers(0, 60, 500)
    own, other = draw.uniform(0.1, 0.3, (2, 3, 500))
    found = excess_difference(p_star, own, other, users)
    excess = [np.mean([metrics.excess_ne(p_star, p) for p in each]) for each in (own, other)]
    assert found["value"] == pytest.approx(100 * (excess[0] - excess[1]), abs=1e-3)
    assert found["low"] < found["value"] < found["high"]


def test_seeds_run_for_all_arms_before_the_next_seed(tmp_path):
    sweep = Sweep(tmp_path, ["a", "b"], 1)
    sweep.run(open_run, (0.0,), workers=1, seconds=60)
    cells = [json.loads(line)["cell"] for line in sweep.path.read_text().splitlines()]
    assert [(cell["seed"], cell["arm"]) for cell in cells] == [
        (seed, arm) for seed in SEEDS for arm in "ab"
    ]
