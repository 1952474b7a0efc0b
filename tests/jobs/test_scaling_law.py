"""The law is recovered from synthetic curves; the sweep resumes, and stops at its budget."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs import fit_scaling_law
from jobs.config import ScalingLaw, with_overrides
from jobs.errors import ConfigError
from jobs.recipes import named_recipe
from jobs.scaling import cells, results, sizes
from jobs.scaling.law import fit_power_law, predict
from jobs.scaling.stream import FIELDS, read_stream
from jobs.simulation import PRESETS, concatenated, days
from model.batch import check_batch
from model.metrics import excess_ne
from model.ranker import Ranker

FLOPS = np.geomspace(1e5, 1e7, 5)
SCALE, EXPONENT = 0.02, 0.3


def curve(noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Excess NE of a known law and its standard errors."""
    exact = SCALE * (FLOPS / 1e6) ** -EXPONENT
    drawn = np.random.default_rng(seed).standard_normal(len(FLOPS))
    return exact * np.exp(noise * drawn), np.full(len(FLOPS), max(noise, 0.01)) * exact


def test_exact_points_give_their_law_back():
    law = fit_power_law(FLOPS, *curve())
    assert law.scale == pytest.approx(SCALE)
    assert law.exponent.value == pytest.approx(EXPONENT)
    assert law.r_squared == pytest.approx(1.0)
    assert predict(law, 1e8).value == pytest.approx(SCALE * 100**-EXPONENT)


def test_weights_are_those_of_least_squares_on_logarithms():
    excess, _ = curve(noise=0.1)
    errors = np.array([0.3, 0.1, 0.2, 0.1, 0.05]) * excess
    found = fit_power_law(FLOPS, excess, errors)
    slope, intercept = np.polyfit(np.log(FLOPS / 1e6), np.log(excess), 1, w=excess / errors)
    assert found.exponent.value == pytest.approx(-slope)
    assert found.scale == pytest.approx(np.exp(intercept))


def test_intervals_cover_the_truth_as_often_as_they_say():
    laws = [fit_power_law(FLOPS, *curve(0.05, seed)) for seed in range(200)]
    held = [law.exponent.low <= EXPONENT <= law.exponent.high for law in laws]
    truth = SCALE * 10**-EXPONENT
    told = [predict(law, 1e7) for law in laws]
    assert 0.92 <= np.mean(held) <= 1.0
    assert 0.92 <= np.mean([p.low <= truth <= p.high for p in told]) <= 1.0


def test_points_off_the_line_widen_the_interval():
    excess, errors = curve()
    bent = excess * np.array([1.2, 1.0, 0.8, 1.0, 1.2])
    straight, crooked = (fit_power_law(FLOPS, e, errors) for e in (excess, bent))
    assert crooked.misfit > 10
    widths = [law.exponent.high - law.exponent.low for law in (straight, crooked)]
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_sizes_are_refused(count):
    excess, errors = curve()
    with pytest.raises(ValueError, match=rf"needs 4 different sizes.*found {count}, {count} and"):
        fit_power_law(FLOPS[:count], excess[:count], errors[:count])


def test_one_size_five_times_is_one_size():
    with pytest.raises(ValueError, match="needs 4 different sizes"):
        fit_power_law(np.full(5, 1e6), *curve())


@pytest.mark.parametrize("wrong", [0.0, -0.1, float("nan")])
def test_numbers_without_a_logarithm_are_refused(wrong):
    excess, errors = curve()
    excess[2] = wrong
    with pytest.raises(ValueError, match="positive and finite"):
        fit_power_law(FLOPS, excess, errors)


def cell(size: int, excess: float, seed: int = 0) -> dict[str, float]:
    return {
        "size": size,
        "seed": seed,
        "excess_ne": excess,
        "excess_ne_error": 0.01 * excess,
        "flops_per_row": FLOPS[size],
    }


def test_the_largest_size_is_predicted_and_not_fitted():
    excess, _ = curve()
    own = [cell(size, value) for size, value in enumerate(excess)]
    own[-1]["excess_ne"] *= 2
    found = results.curve_of("wukong", own)
    assert found.law is not None
    assert found.law.exponent.value == pytest.approx(EXPONENT)
    assert found.prediction_error == pytest.approx(-0.5)
    assert "predicts" in results.table([found], [])[-1]


def test_a_model_with_too_few_sizes_has_points_and_a_reason():
    not_run = [{"model": "wukong", "size": 4, "seed": 0}]
    found = results.curve_of("wukong", [cell(size, 0.1) for size in range(4)])
    assert (found.law, len(found.points)) == (None, 4)
    lines = results.table([found], not_run)
    assert "| wukong | 4 | | *not run* | seed 0 |" in lines
    assert "needs 4 different sizes" in lines[-1]


def test_seeds_are_averaged_and_their_spread_joins_the_error():
    own = [cell(0, 0.1, 0), cell(0, 0.2, 1)]
    (point,) = results.curve_of("wukong", own).points
    assert point.excess == pytest.approx(0.15)
    assert point.standard_error == pytest.approx(np.hypot(0.0015, 0.05))


@pytest.fixture(scope="module")
def stream():
    return read_stream(PRESETS["world-1"].world, 2)


def test_events_of_a_row_are_its_users_latest_strictly_before_it(stream):
    rows = np.arange(1_000, 1_100)
    history = stream.batch(rows, 5).history
    organic = concatenated([day.organic for day in days(PRESETS["world-1"].world, 0, 2)])
    for row, place in enumerate(rows):
        own = organic["event_ms"][organic["user"] == stream.users[place]] * 1000
        before = np.sort(own[own < int(stream.row_us[place])])[-5:]
        read = history.event_us[history.start[row] : history.end[row]]
        assert read.tolist() == before.tolist()


def test_the_held_out_day_comes_after_every_row_that_is_learnt(stream):
    day_us = PRESETS["world-1"].world.day_ms(1) * 1000
    assert int(stream.row_us[: stream.num_train_rows].max()) < day_us
    assert int(stream.row_us[stream.num_train_rows :].min()) >= day_us
    assert excess_ne(stream.p_star, stream.p_star) == 0.0
    assert float(stream.labels.mean()) == pytest.approx(stream.p_star.mean(), abs=0.03)


@pytest.mark.parametrize("model", sizes.MODELS)
def test_every_model_reads_the_rows_and_grows_with_size(stream, model):
    found = [cells.config_of(stream, model, size) for size in range(sizes.NUM_SIZES)]
    check_batch(stream.batch(np.arange(50), sizes.NUM_EVENTS), found[0])
    flops = [cells.flops(config, sizes.NUM_EVENTS) for config in found]
    assert flops == sorted(set(flops))
    assert found[0].num_tokens == len(FIELDS) + sizes.NUM_SUMMARY_TOKENS


@pytest.mark.parametrize("model", sizes.MODELS)
def test_flops_of_a_size_equal_what_a_row_with_a_full_history_takes(stream, model):
    config = cells.config_of(stream, model, 2)
    full = np.flatnonzero(stream.end_event - stream.first_event >= sizes.NUM_EVENTS)[:32]
    # The counter knows no fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Ranker(config)(stream.batch(full, sizes.NUM_EVENTS))
    expected = 32 * cells.flops(config, sizes.NUM_EVENTS)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_the_standard_error_is_that_of_resampled_users():
    rng = np.random.default_rng(0)
    p_star = rng.uniform(0.05, 0.3, 2_000)
    told = np.clip(p_star * rng.uniform(0.5, 1.5, 2_000), 0.01, 0.9)
    each, shared = (
        cells._user_error(p_star, told, users)
        for users in (np.arange(2_000), np.arange(2_000) // 20)
    )
    drawn = [excess_ne(p_star[at], told[at]) for at in rng.integers(0, 2_000, (300, 2_000))]
    assert each == pytest.approx(np.std(drawn), rel=0.2)
    assert shared == pytest.approx(each, rel=0.3)


def sweep(**changes):
    values = {"preset": "world-1", "num_days": 2, "models": ["wukong"], "batch_size": 500}
    given = {f"scaling_law.{name}": value for name, value in (values | changes).items()}
    return with_overrides(named_recipe("tiny"), given)


def test_a_sweep_goes_on_where_it_stopped_and_ends_in_a_law(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "NUM_SIZES", 5)
    stopped = fit_scaling_law.run(sweep(budget_cpu_seconds=1e-9), str(tmp_path))
    assert len(stopped.details["not_run"]) == 5
    assert "needs 4 different sizes" in stopped.details["laws"]["wukong"]["reason"]
    done = fit_scaling_law.run(sweep(), str(tmp_path))
    folder = tmp_path / "scaling_law" / done.details["folder"].rpartition("/")[2]
    before = (folder / "cells.jsonl").read_text()
    assert done.details["folder"] == stopped.details["folder"]
    assert (done.rows["cells"], done.details["not_run"]) == (5, [])
    assert {"a", "b", "r_squared", "prediction_error"} <= set(done.details["laws"]["wukong"])
    assert (folder / "law.png").stat().st_size > 0
    again = fit_scaling_law.run(sweep(), str(tmp_path))
    assert (folder / "cells.jsonl").read_text() == before
    assert again.details["laws"] == done.details["laws"]


def test_a_cell_that_the_budget_ends_within_is_not_kept(stream):
    with pytest.raises(cells.OutOfBudget):
        cells.run_cell(stream, ScalingLaw(), "wukong", 0, 0, deadline=0.0)


def test_other_settings_are_other_cells(stream):
    config = cells.config_of(stream, "wukong", 0)
    keys = [
        json.dumps(cells.cell_key(settings, config, "wukong", 0, 0))
        for settings in (
            ScalingLaw(),
            ScalingLaw(budget_cpu_seconds=1, seeds=(3,)),
            ScalingLaw(lr_dense=1e-3),
            ScalingLaw(num_days=3),
        )
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("changes", [{"preset": "world-0"}, {"num_days": 5}])
def test_a_world_that_is_not_there_is_refused(tmp_path, changes):
    with pytest.raises(ConfigError, match=r"scaling_law\.preset, scaling_law\.num_days"):
        fit_scaling_law.run(sweep(**changes), str(tmp_path))


def test_a_rows_events_tell_of_its_ad(stream):
    """Actions about the ad's category raise p*: rows, events and truth are joined rightly."""
    rows = np.arange(1_000, 2_000)
    batch = stream.batch(rows, sizes.NUM_EVENTS)
    history = batch.history
    own = torch.arange(len(rows)).repeat_interleave(history.end - history.start)
    ad = batch.categorical[:, FIELDS.index("category")]
    matches = torch.bincount(own[history.categorical[:, 0] == ad[own]], minlength=len(rows))
    z = np.log(stream.p_star[rows] / (1 - stream.p_star[rows]))
    assert np.corrcoef(matches.numpy(), z)[0, 1] > 0.2
