"""Figures of the gate window are those of `model.metrics` on exactly the rows they name."""

import numpy as np
import pytest

from jobs.config import Gates
from jobs.training.evaluation import (
    GateRows,
    compare_twin,
    gate_rows,
    judge,
    with_joint_bounds,
)
from jobs.training.segments import Segment
from model import metrics
from tests.jobs.training import samples

LIMITS = Gates(min_slice_rows=60, min_slice_positives=8, num_resamples=50)
TASKS = ["click", "buy"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """The rows of the log's last two days as a gate window would take them."""
    config = samples.config(tmp_path_factory.mktemp("home"))
    reader = samples.reader(config, samples.world(600))
    return gate_rows(reader, Segment(samples.days(2)[0], samples.END))


@pytest.fixture(scope="module")
def predictions(gate):
    draw = np.random.default_rng(0)
    shape = (len(gate.rows), 2)
    return {name: draw.uniform(0.05, 0.6, shape) for name in ("model", "champion", "trees")}


def records(gate, predictions, **changes):
    by_domain = changes.pop("by_domain", True)
    found = judge("m", TASKS, gate, predictions, LIMITS, "champion", by_domain=by_domain)
    return {(r["task"], r["slice"]): r for r in found}


def within(gate, name):
    return {
        "all": np.ones(len(gate.rows), bool),
        "red": gate.domain == 1,
        "blue-video": gate.vertical == gate.spec.verticals.index("blue-video"),
    }[name]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("name", ["all", "red", "blue-video"])
def test_figures_equal_the_metrics_of_the_slice(gate, predictions, task, name):
    record = records(gate, predictions)[TASKS[task], name]
    at = within(gate, name) & gate.mask[:, task]
    y, users = gate.labels[at, task], gate.users[at]
    own, other, trees = (predictions[k][at, task] for k in ("model", "champion", "trees"))
    ne, calibration = (
        metrics.bootstrap_ne(y, own, users, num_resamples=50),
        metrics.bootstrap_calibration(y, own, users, num_resamples=50),
    )
    expected = {
        "rows": at.sum(),
        "positives": y.sum(),
        "ne": metrics.ne(y, own),
        "ne_low": ne.low,
        "ne_high": ne.high,
        "auc": metrics.auc(y, own),
        "gauc": metrics.gauc(y, own, users),
        "calibration": metrics.calibration(y, own),
        "calibration_low": calibration.low,
        "calibration_high": calibration.high,
        "versus_value": metrics.ne(y, own) / metrics.ne(y, other) - 1,
        "ne_champion": metrics.ne(y, other),
        "ne_trees": metrics.ne(y, trees),
        "auc_trees": metrics.auc(y, trees),
    }
    assert {key: record[key] for key in expected} == pytest.approx(expected, rel=1e-9)


def test_labels_that_matured_elsewhere_are_not_judged(gate):
    assert not np.isnan(gate.labels[gate.mask]).any()
    assert not gate.mask.all(axis=1).all()
    assert gate.mask.any(axis=1).all()


def test_every_domain_and_vertical_is_judged_once(gate, predictions):
    found = judge("m", TASKS, gate, predictions, LIMITS, "champion", by_domain=True)
    names = [(r["slice_kind"], r["slice"]) for r in found if r["task"] == "click"]
    assert names == [
        ("overall", "all"),
        ("domain", "blue"),
        ("domain", "red"),
        ("vertical", "blue-feed"),
        ("vertical", "blue-video"),
        ("vertical", "red-home"),
    ]


def test_a_student_is_judged_as_a_whole(gate, predictions):
    assert {name for _, name in records(gate, predictions, by_domain=False)} == {"all"}


def test_a_slice_too_small_is_not_judged(gate, predictions):
    found = records(gate, predictions)
    for record in found.values():
        enough = record["rows"] >= 60 and record["positives"] >= 8
        assert record["judged"] is enough
    assert {record["judged"] for record in found.values()} == {True, False}


def test_a_slice_without_rows_has_no_record(gate, predictions):
    red = gate.domain == 1
    only = GateRows(
        gate.spec,
        *(
            x[red]
            for x in (gate.rows, gate.mask, gate.labels, gate.users, gate.domain, gate.vertical)
        ),
    )
    found = records(only, {name: p[red] for name, p in predictions.items()})
    assert {name for _, name in found} == {"all", "red", "red-home"}


def test_a_model_equal_to_its_opponent_differs_by_exactly_nothing(gate, predictions):
    same = {"model": predictions["model"], "champion": predictions["model"].copy()}
    for record in records(gate, same).values():
        assert record["versus_value"] == record["versus_low"] == record["versus_high"] == 0.0


def test_half_a_logit_too_high_shows(gate):
    draw = np.random.default_rng(1)
    rates = np.nanmean(np.where(gate.mask, gate.labels, np.nan), axis=0)
    logits = np.log(rates / (1 - rates)) + draw.normal(0, 0.1, (len(gate.rows), 2))
    shifted = {"model": 1 / (1 + np.exp(-logits - 0.5)), "champion": 1 / (1 + np.exp(-logits))}
    record = records(gate, shifted)["click", "all"]
    assert record["calibration_low"] > 1.0
    assert record["calibration"] == pytest.approx(
        shifted["model"][gate.mask[:, 0], 0].sum() / record["positives"]
    )
    assert record["versus_low"] > 0.0
    # The order of the rows has not changed.
    assert record["auc"] == pytest.approx(record["auc_champion"], abs=1e-12)


def twins(gate, **changes):
    draw = np.random.default_rng(2)
    noise = draw.normal(0, 1.5, gate.labels.shape)
    truth = np.where(np.isnan(gate.labels), 0.5, gate.labels) * 4 - 3
    values = {
        "teacher": 1 / (1 + np.exp(-truth)),
        "model": 1 / (1 + np.exp(-truth / 2 - noise / 4)),
        "twin": 1 / (1 + np.exp(1 - noise)),
    }
    return values | changes


def test_a_twin_is_compared_where_the_teacher_scored(gate):
    values = twins(gate)
    values["teacher"][::2, 0] = np.nan
    click, _ = compare_twin("m", TASKS, gate, values, LIMITS)
    at = gate.mask[:, 0] & ~np.isnan(values["teacher"][:, 0])
    y = gate.labels[at, 0]
    assert (click["rows"], click["positives"]) == (at.sum(), y.sum())
    ne = {name: metrics.ne(y, p[at, 0]) for name, p in values.items()}
    assert [click["ne"], click["ne_twin"], click["ne_teacher"]] == pytest.approx(
        [ne["model"], ne["twin"], ne["teacher"]]
    )
    assert click["twin_value"] == pytest.approx(ne["model"] / ne["twin"] - 1, abs=1e-12)
    expected = (ne["twin"] - ne["model"]) / (ne["twin"] - ne["teacher"])
    assert click["eta"] == pytest.approx(expected, abs=1e-12)
    assert click["eta_low"] < click["eta"] < click["eta_high"]
    assert click["eta_reason"] == ""


def test_transfer_between_versions_takes_both_earlier_models(gate):
    values = twins(gate)
    for record in compare_twin("m", TASKS, gate, values, LIMITS):
        assert np.isnan(record["tr"])
        assert "an earlier version of both" in record["tr_reason"]
    values |= {"champion": values["twin"], "earlier_teacher": values["twin"]}
    click, _ = compare_twin("m", TASKS, gate, values, LIMITS)
    # Both earlier versions are the twin here, so that both ratios are of the same gains.
    assert (click["tr"], click["tr_low"]) == (click["eta"], click["eta_low"])


def test_a_student_equal_to_its_twin_gained_exactly_nothing(gate):
    values = twins(gate)
    for record in compare_twin("m", TASKS, gate, values | {"model": values["twin"]}, LIMITS):
        assert record["twin_value"] == record["twin_low"] == record["twin_high"] == 0.0


def test_a_teacher_no_better_than_the_twin_leaves_eta_undefined_with_a_reason(gate):
    values = twins(gate)
    for record in compare_twin("m", TASKS, gate, values | {"teacher": values["twin"]}, LIMITS):
        assert np.isnan(record["eta"])
        assert "gain over the twin must be at least" in record["eta_reason"]


def test_without_any_score_nothing_is_judged(gate):
    nothing = np.full(gate.labels.shape, np.nan)
    for record in compare_twin("m", TASKS, gate, twins(gate, teacher=nothing), LIMITS):
        assert (record["rows"], record["positives"], record["judged"]) == (0, 0, False)
        assert np.isnan(record["twin_value"])


def test_equals_are_refused_once_in_forty_families_not_once_in_four():
    draw = np.random.default_rng(5)
    alone = jointly = 0
    for _ in range(4000):
        values = draw.normal(0, 0.001, 11)
        family = [
            {"judged": True, "twin_value": value, "twin_low": value - 1.96 * 0.001}
            for value in values
        ]
        alone += any(twin["twin_low"] > 0 for twin in family)
        jointly += any(twin["twin_joint_low"] > 0 for twin in with_joint_bounds(family))
    assert alone / 4000 == pytest.approx(1 - 0.975**11, abs=0.02)
    assert jointly / 4000 == pytest.approx(0.025, abs=0.008)


def test_a_single_judged_twin_keeps_its_own_bound():
    twins = [
        {"judged": True, "twin_value": 0.003, "twin_low": 0.001},
        {"judged": False, "twin_value": np.nan, "twin_low": np.nan},
    ]
    one, other = with_joint_bounds(twins)
    assert one["twin_joint_low"] == pytest.approx(0.001, abs=1e-12)
    assert np.isnan(other["twin_joint_low"])
