"""Arms of the multi-domain bench differ in what they say they do, and cost the same."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.scaling.sizes import NUM_EVENTS
from jobs.simulation.world import World
from model.ranker import Ranker, flops
from tests.bench import bench_multi_domain as bench
from tests.bench.sweep import SEEDS, Cell, Sweep
from tests.bench.worlds import Days, days_of

SHOWN = 1_500


@pytest.fixture(scope="module")
def days() -> Days:
    world = World(
        world_start=date(2026, 1, 1),
        num_users=100,
        num_ads=20,
        num_impressions=SHOWN,
        num_domains=3,
    )
    return days_of(world, 4)


def test_every_arm_costs_the_same_flops_and_the_counter_agrees(days):
    rows = days.judged[:64]
    for arm in bench.ARMS:
        config = bench.ranker_config(days.stream, arm)
        told = flops(config, NUM_EVENTS)
        assert told == flops(bench.ranker_config(days.stream, "naive"), NUM_EVENTS)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            Ranker(config)(bench.batch_of(days.stream, config, rows))
        # The counter does not see the fused attention.
        assert 0.9 * told < counter.get_total_flops() / len(rows) < 1.02 * told


def test_naive_is_told_no_platform_and_separate_rankers_share_all_rows(days):
    stream, rows = days.stream, days.learnt
    naive = bench.ranker_config(stream, "naive")
    assert not bench.batch_of(stream, naive, rows).domain.any()
    heads = bench.ranker_config(stream, "heads")
    assert set(bench.batch_of(stream, heads, rows).domain.tolist()) == {0, 1, 2}
    parts = [bench.own_rows(stream, arm, rows) for arm in bench.ARMS if arm not in bench.MERGED]
    assert np.array_equal(np.sort(np.concatenate(parts)), rows)


def test_a_platforms_ranker_scores_its_own_rows_alone(days):
    told = bench.run_cell(days, Cell("separate/amber", 0, 0), "cpu").judged[:, 0]
    own = days.stream.domain.numpy()[days.judged] == 2
    assert np.array_equal(~np.isnan(told), own)


def test_the_summary_joins_the_separate_rankers_and_tells_what_has_not_run(
    days, tmp_path, monkeypatch
):
    sweep = Sweep(tmp_path, bench.ARMS, len(bench.RATES))
    lines = list(bench.summary(days, sweep))
    assert sum(line.get("result") == "not run" for line in lines) == 4 * 3
    for arm in bench.ARMS:
        own = np.isin(days.judged, bench.own_rows(days.stream, arm, days.judged))
        p = np.where(own, days.stream.p_star[days.judged], np.nan)[:, None]
        for cell in [Cell(arm, n, seed) for n in range(len(bench.RATES)) for seed in SEEDS]:
            np.save(tmp_path / f"{cell.name}.npy", p)
            line = {"cell": vars(cell), "tuned_ne": 1.0}
            with sweep.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
    lines = list(bench.summary(days, Sweep(tmp_path, bench.ARMS, len(bench.RATES))))
    judged = [line for line in lines if "excess_pp" in line]
    assert len(judged) == 4 * 3
    assert all(line["excess_pp"] == pytest.approx(0.0, abs=1e-3) for line in judged)
    assert all(line["calibration"] == pytest.approx(1.0, abs=1e-3) for line in judged)
