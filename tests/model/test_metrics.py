"""Metrics against loops and scikit-learn, and intervals against draws put together row by row."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from model import metrics
from tests.reference import model_metrics as reference

LABELS = np.array([1, 0, 0, 1, 0, 1])
PROBABILITIES = np.array([0.8, 0.3, 0.4, 0.4, 0.1, 0.9])
USERS = np.array(["a", "a", "b", "b", "c", "c"])
NONE = np.empty(0)


def make_rows(num_rows=400, num_users=40, seed=0):
    """Labels drawn from p*, with a good and a bad prediction of it."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1.0, 1.5, num_rows)
    p_star = 1 / (1 + np.exp(-logits))
    labels = (generator.random(num_rows) < p_star).astype(np.int64)
    bad = 1 / (1 + np.exp(-0.3 * logits))
    return labels, p_star, bad, generator.integers(num_users, size=num_rows)


ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@given(ROWS)
def test_gauc_equals_the_loop_over_users_and_pairs(rows):
    labels, probabilities, users = (np.array(column) for column in zip(*rows, strict=True))
    mixed = {u for u in users if len(set(labels[users == u])) == 2}
    actual = metrics.gauc(labels, probabilities, users)
    if not mixed:
        assert math.isnan(actual)
    else:
        expected = reference.gauc(labels.tolist(), probabilities.tolist(), users.tolist())
        assert actual == pytest.approx(expected, abs=1e-12)


@given(ROWS)
def test_field_calibration_error_equals_the_loop_over_values(rows):
    labels, probabilities, values = (np.array(column) for column in zip(*rows, strict=True))
    expected = reference.field_calibration_error(
        labels.tolist(), probabilities.tolist(), values.tolist(), 0.01
    )
    actual = metrics.field_calibration_error(labels, probabilities, values)
    assert actual == pytest.approx(expected, rel=1e-9)


def test_log_loss_and_auc_equal_scikit_learn():
    labels, good, _, _ = make_rows()
    assert metrics.log_loss(labels, good) == pytest.approx(sklearn_metrics.log_loss(labels, good))
    assert metrics.auc(labels, good) == pytest.approx(reference.auc(labels.tolist(), good.tolist()))


def test_ne_equals_the_loop_and_is_one_for_the_base_rate():
    expected = reference.ne(LABELS.tolist(), PROBABILITIES.tolist())
    assert metrics.ne(LABELS, PROBABILITIES) == pytest.approx(expected)
    assert metrics.ne(LABELS, np.full(6, 0.5)) == pytest.approx(1.0)


def test_weight_two_counts_a_row_twice():
    weights = np.array([2.0, 1.0, 0.0, 1.0, 3.0, 1.0])
    repeated = np.repeat(np.arange(6), weights.astype(int))
    assert metrics.ne(LABELS, PROBABILITIES, weights) == pytest.approx(
        metrics.ne(LABELS[repeated], PROBABILITIES[repeated])
    )


def test_certain_and_wrong_prediction_is_finite():
    assert math.isfinite(metrics.ne(np.array([0, 1]), np.array([1.0, 0.0])))


def test_calibration_is_predicted_over_observed():
    assert metrics.calibration(LABELS, PROBABILITIES) == pytest.approx(2.9 / 3)


def test_excess_ne_is_the_gap_to_the_true_probabilities_without_label_noise():
    p_star, p = np.array([0.2, 0.6]), np.array([0.3, 0.5])
    divergence = sum(
        q * math.log(q / r) + (1 - q) * math.log((1 - q) / (1 - r))
        for q, r in zip(p_star, p, strict=True)
    )
    entropy = -2 * (0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert metrics.excess_ne(p_star, p) == pytest.approx(divergence / entropy)
    assert metrics.excess_ne(p_star, p_star) == 0.0


def test_excess_ne_agrees_with_labels_drawn_from_the_truth():
    labels, p_star, bad, _ = make_rows(num_rows=200_000)
    gap = metrics.ne(labels, bad) - metrics.ne(labels, p_star)
    assert metrics.excess_ne(p_star, bad) == pytest.approx(gap, rel=0.05)


def test_reliability_curve_of_literal_rows():
    curve = metrics.reliability_curve(LABELS, PROBABILITIES, num_bins=2)
    # The median is 0.4: rows up to it fall into the first bin.
    np.testing.assert_allclose(curve.mean_probability, [1.2 / 4, 1.7 / 2])
    np.testing.assert_allclose(curve.mean_label, [0.25, 1.0])
    assert curve.num_rows.tolist() == [4, 2]


def test_equal_probabilities_share_one_bin():
    curve = metrics.reliability_curve(LABELS, np.full(6, 0.5))
    assert (curve.num_rows.tolist(), curve.mean_label.tolist()) == ([6], [0.5])


@pytest.mark.parametrize("metric", [metrics.ne, metrics.auc, metrics.log_loss, metrics.calibration])
def test_no_rows_give_nan(metric):
    assert math.isnan(metric(NONE, NONE))


@pytest.mark.parametrize("metric", [metrics.gauc, metrics.field_calibration_error])
def test_no_rows_give_nan_for_grouped_metrics(metric):
    assert math.isnan(metric(NONE, NONE, NONE))


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_leave_ne_and_auc_undefined(label):
    labels = np.full(6, label)
    assert math.isnan(metrics.ne(labels, PROBABILITIES))
    assert math.isnan(metrics.auc(labels, PROBABILITIES))
    assert math.isnan(metrics.bootstrap_ne(labels, PROBABILITIES, USERS).value)


def test_calibration_without_positives_is_undefined():
    assert math.isnan(metrics.calibration(np.zeros(6), PROBABILITIES))


@pytest.mark.parametrize(
    "metric", [metrics.ne, metrics.auc, metrics.log_loss, metrics.calibration, metrics.excess_ne]
)
def test_prediction_that_is_nan_makes_the_figure_nan(metric):
    probabilities = PROBABILITIES.copy()
    probabilities[2] = np.nan
    assert math.isnan(metric(LABELS.astype(float), probabilities))


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"found lengths \[6, 5"):
        metrics.ne(LABELS, PROBABILITIES[:5])
    with pytest.raises(ValueError, match=r"found lengths \[5, 6\]"):
        metrics.bootstrap_ne(LABELS, PROBABILITIES, USERS[:5])


def test_bootstrap_of_users_equals_draws_put_together_row_by_row():
    labels, good, _, users = make_rows(num_rows=120, num_users=12)
    columns = np.stack([np.ones(120), labels, good], axis=1)
    draws = metrics.user_bootstrap(users, columns, num_resamples=20, seed=3)
    generator = np.random.default_rng(3)
    for draw in draws:
        drawn = generator.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(users == user) for user in drawn])
        np.testing.assert_allclose(draw, columns[rows].sum(0))


def test_ne_interval_is_made_of_the_percentiles_of_resampled_ne():
    labels, good, _, users = make_rows(num_rows=120, num_users=12)
    interval = metrics.bootstrap_ne(labels, good, users, num_resamples=50, seed=1)
    values = reference.resampled_ne(labels, good, users, num_resamples=50, seed=1)
    expected = (metrics.ne(labels, good), *np.percentile(values, [2.5, 97.5]))
    assert interval == pytest.approx(expected)


def test_calibration_interval_of_a_calibrated_model_covers_one():
    labels, p_star, _, users = make_rows(num_rows=4000)
    interval = metrics.bootstrap_calibration(labels, p_star, users)
    assert interval.value == pytest.approx(metrics.calibration(labels, p_star))
    assert interval.low < 1.0 < interval.high


def test_miscalibration_counts_both_ways_and_not_what_both_share():
    labels, p_star, _, users = make_rows(num_rows=4000)

    def difference(own, other):
        return metrics.bootstrap_miscalibration_difference(labels, own, other, users)

    for off in (0.6, 1.5):
        ratio = metrics.calibration(labels, off * p_star), metrics.calibration(labels, p_star)
        found = difference(off * p_star, p_star)
        assert found.value == pytest.approx(np.subtract(*np.abs(np.log(ratio))))
        assert 0 < found.low < found.value < found.high
        assert difference(p_star, off * p_star).high < 0
        same = difference(off * p_star, off * p_star)
        assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)


def test_difference_is_negative_for_the_better_model_and_relative_to_the_champion():
    labels, good, bad, users = make_rows(num_rows=4000)
    absolute = metrics.bootstrap_ne_difference(labels, good, bad, users, relative=False)
    relative = metrics.bootstrap_ne_difference(labels, good, bad, users)
    gap = metrics.ne(labels, good) - metrics.ne(labels, bad)
    assert absolute.value == pytest.approx(gap)
    assert relative.value == pytest.approx(gap / metrics.ne(labels, bad))
    assert absolute.low < absolute.value < absolute.high < 0


def test_pairing_makes_the_difference_sharper_than_its_parts():
    labels, good, _, users = make_rows(num_rows=4000)
    nearly = np.clip(good * 1.01, 0, 1)
    paired = metrics.bootstrap_ne_difference(labels, nearly, good, users, relative=False)
    single = metrics.bootstrap_ne(labels, good, users)
    assert paired.high - paired.low < 0.1 * (single.high - single.low)


def test_model_against_itself_differs_by_exactly_nothing():
    labels, good, _, users = make_rows()
    assert metrics.bootstrap_ne_difference(labels, good, good, users) == (0.0, 0.0, 0.0)


def test_seed_decides_the_interval():
    labels, good, _, users = make_rows()
    first, again, other = (metrics.bootstrap_ne(labels, good, users, 200, s) for s in (0, 0, 1))
    assert first == again
    assert first.low != other.low


def test_resampling_users_is_wider_than_resampling_their_rows():
    labels, good, _, users = make_rows(num_rows=200)
    tenfold = np.tile(np.arange(200), 10)
    interval = metrics.bootstrap_ne(labels[tenfold], good[tenfold], users[tenfold])
    as_rows = metrics.bootstrap_ne(labels[tenfold], good[tenfold], np.arange(2000))
    assert interval.high - interval.low > 2 * (as_rows.high - as_rows.low)


def test_transfer_ratio_is_the_share_of_the_gain_that_arrived():
    labels, teacher, twin, users = make_rows(num_rows=4000)
    student = (teacher + twin) / 2
    ratio = metrics.transfer_ratio(labels, twin, student, teacher, users)
    gains = [metrics.ne(labels, twin) - metrics.ne(labels, p) for p in (student, teacher)]
    assert ratio.value == pytest.approx(gains[0] / gains[1])
    assert ratio.low < ratio.value < ratio.high
    assert ratio.reason is None


def test_student_equal_to_teacher_or_twin_transfers_all_or_nothing():
    labels, teacher, twin, users = make_rows(num_rows=4000)
    assert metrics.transfer_ratio(labels, twin, teacher, teacher, users).value == 1.0
    assert metrics.transfer_ratio(labels, twin, twin, teacher, users).value == 0.0


def test_transfer_between_versions_divides_the_gains_of_both():
    labels, good, bad, users = make_rows(num_rows=4000)
    teachers, students = (bad, good), (bad, (good + bad) / 2)
    ratio = metrics.transfer_between_versions(labels, students, teachers, users)
    gains = [metrics.ne(labels, a) - metrics.ne(labels, b) for a, b in (students, teachers)]
    assert ratio.value == pytest.approx(gains[0] / gains[1])
    assert ratio.low < ratio.value < ratio.high


def test_transfer_between_versions_of_a_teacher_that_lost_is_refused():
    labels, good, bad, users = make_rows(num_rows=400)
    ratio = metrics.transfer_between_versions(labels, (bad, good), (good, bad), users)
    assert ratio.value is None
    assert "over its earlier version must be" in ratio.reason


def test_transfer_ratio_of_a_teacher_that_is_hardly_better_is_refused():
    labels, good, _, users = make_rows(num_rows=400)
    teacher = np.clip(good * 1.001, 0, 1)
    ratio = metrics.transfer_ratio(labels, good, good, teacher, users)
    assert ratio[:3] == (None, None, None)
    assert "at least 5 standard errors; found" in ratio.reason


@pytest.mark.parametrize("labels", [NONE, np.zeros(6)])
def test_transfer_ratio_of_undefined_ne_is_refused(labels):
    p, users = PROBABILITIES[: len(labels)], USERS[: len(labels)]
    assert "found nan NE" in metrics.transfer_ratio(labels, p, p, p, users).reason


def test_transfer_ratio_of_a_single_user_has_no_error_and_is_refused():
    labels, teacher, twin, _ = make_rows(num_rows=400)
    ratio = metrics.transfer_ratio(labels, twin, twin, teacher, np.zeros(400))
    assert ratio.value is None
    assert "standard error 0.000000" in ratio.reason
