"""What the gates and reports are measured in; numpy in, numbers out.

Where a figure is not defined (no rows, labels of one class, no positive) it is NaN, never an
exception; arrays of different lengths are a ValueError. Labels are 0 or 1.
"""

from typing import NamedTuple

import numpy as np

EPSILON = 1e-15
"""Probabilities are kept this far from 0 and 1 before a logarithm."""
MIN_STANDARD_ERRORS = 5.0
"""Least size of a teacher's gain, in its standard errors, for a transfer ratio."""
_Number = float | np.number | np.ndarray


class Interval(NamedTuple):
    """An estimate with the 95% percentile interval of its bootstrap."""

    value: float
    low: float
    high: float


class TransferRatio(NamedTuple):
    """A transfer ratio, or the reason why there is none."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class ReliabilityCurve(NamedTuple):
    """One entry per bin of predicted probability, in rising order."""

    mean_probability: np.ndarray
    mean_label: np.ndarray
    num_rows: np.ndarray


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean cross-entropy, −(1/N) Σ [y ln p + (1 − y) ln(1 − p)]."""
    _check_lengths(labels, probabilities)
    return float(_ratio(_row_losses(labels, probabilities).sum(), len(labels)))


def ne(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Normalised entropy: log loss over the entropy of the rows' own base rate.

    NE = LL / H(p̄), p̄ = Σ w y / Σ w of the evaluated rows; 1 is no better than the base rate.

    Paper: He et al. 2014, section 3.
    Differs: none.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    _check_lengths(labels, probabilities, weights)
    losses = _row_losses(labels, probabilities)
    return float(_ne(weights.sum(), weights @ labels, weights @ losses))


def excess_ne(p_star: np.ndarray, probabilities: np.ndarray) -> float:
    """Normalised entropy above that of the true probabilities, without label noise.

    excess NE = E[KL(p* ‖ p)] / H(p̄*)

    Paper: ours; the true p* is known only for generated logs.
    Differs: none.
    """
    _check_lengths(p_star, probabilities)
    divergences = _row_losses(p_star, probabilities) - _row_losses(p_star, p_star)
    return float(_ne(len(p_star), p_star.sum(dtype=np.float64), divergences.sum()))


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    _check_lengths(labels, probabilities)
    return gauc(labels, probabilities, np.zeros(len(labels), np.int8))


def gauc(labels: np.ndarray, probabilities: np.ndarray, users: np.ndarray) -> float:
    """AUC within each user, averaged over users with their impressions as weights.

    gAUC = Σ_u n_u AUC_u / Σ_u n_u over the users that have both classes.

    Paper: DIN (arXiv 1706.06978), section 5.2.
    Differs: none; InterFormer weights by clicks instead.
    """
    _check_lengths(labels, probabilities, users)
    if len(labels) == 0 or np.isnan(probabilities).any():
        return float("nan")
    _, user = np.unique(users, return_inverse=True)
    order = np.lexsort((probabilities, user))
    user, label, probability = user[order], labels[order].astype(float), probabilities[order]
    num_rows = np.bincount(user)
    first = np.cumsum(num_rows) - num_rows
    # Rank within the user; rows of equal probability share the mean of their ranks.
    tied = np.r_[True, (np.diff(user) != 0) | (np.diff(probability) != 0)].cumsum() - 1
    ranks = np.arange(len(user)) - first[user] + 1.0
    ranks = (np.bincount(tied, ranks) / np.bincount(tied))[tied]
    positives = np.bincount(user, label)
    pairs = positives * (num_rows - positives)
    kept = pairs > 0
    wins = np.bincount(user, label * ranks) - positives * (positives + 1) / 2
    return float(_ratio(num_rows[kept] @ (wins[kept] / pairs[kept]), num_rows[kept].sum()))


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Predicted over observed positives, Σp / Σy; above 1 is over-prediction."""
    _check_lengths(labels, probabilities)
    return float(_ratio(probabilities.sum(dtype=np.float64), labels.sum(dtype=np.float64)))


def field_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, values: np.ndarray, epsilon: float = 0.01
) -> float:
    """Relative calibration error within the values of one field, weighted by rows.

    Field-RCE = (1/N) Σ_v N_v |Σ_{i∈v} (y_i − p_i)| / Σ_{i∈v} (y_i + ε)

    Paper: Pan et al. 2020 (doi 10.1145/3366423.3380154).
    Differs: none.
    """
    _check_lengths(labels, probabilities, values)
    _, value = np.unique(values, return_inverse=True)
    num_rows = np.bincount(value)
    residuals = np.abs(np.bincount(value, labels - probabilities.astype(float)))
    observed = np.bincount(value, labels + epsilon)
    return float(_ratio(num_rows @ (residuals / observed), len(labels)))


def reliability_curve(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 10
) -> ReliabilityCurve:
    """Mean label against mean probability, in bins between quantiles of the probability.

    Rows of equal probability share a bin, so there may be fewer bins than asked for.
    """
    _check_lengths(labels, probabilities)
    if len(labels) == 0:
        return ReliabilityCurve(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    edges = np.quantile(probabilities, np.arange(1, num_bins) / num_bins)
    bins = np.unique(np.searchsorted(edges, probabilities, side="left"), return_inverse=True)[1]
    num_rows = np.bincount(bins)
    return ReliabilityCurve(
        np.bincount(bins, probabilities) / num_rows, np.bincount(bins, labels) / num_rows, num_rows
    )


def user_bootstrap(
    users: np.ndarray, columns: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """Draws users with replacement and returns the column sums of each draw.

    A user's rows stay together, because they are not independent; they are summed only once.
    """
    _check_lengths(users, columns)
    names, user = np.unique(users, return_inverse=True)
    if (num_users := len(names)) == 0:
        return np.full((num_resamples, columns.shape[1]), np.nan)
    sums = np.stack([np.bincount(user, column) for column in columns.T], axis=1)
    generator = np.random.default_rng(seed)
    draws = np.empty((num_resamples, columns.shape[1]))
    for draw in draws:
        times = np.bincount(generator.integers(num_users, size=num_users), minlength=num_users)
        draw[:] = times @ sums
    return draws


def bootstrap_ne(
    labels: np.ndarray,
    probabilities: np.ndarray,
    users: np.ndarray,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """NE with its percentile interval, users resampled."""
    columns = _loss_columns(labels, probabilities)
    draws = user_bootstrap(users, columns, num_resamples, seed)
    return _interval(_ne(*columns.sum(0)), _ne(*draws.T))


def bootstrap_calibration(
    labels: np.ndarray,
    probabilities: np.ndarray,
    users: np.ndarray,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Calibration with its percentile interval, users resampled."""
    _check_lengths(labels, probabilities)
    columns = np.stack([probabilities, labels], axis=1).astype(float)
    draws = user_bootstrap(users, columns, num_resamples, seed)
    return _interval(_ratio(*columns.sum(0)), _ratio(*draws.T))


def bootstrap_miscalibration_difference(
    labels: np.ndarray,
    p_challenger: np.ndarray,
    p_champion: np.ndarray,
    users: np.ndarray,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """|ln calibration| of the challenger minus that of the champion; negative is better.

    Both are summed over the same draws, so that a day whose base rate moved counts against neither.
    """

    def difference(sums: np.ndarray) -> np.ndarray:
        challenger, champion, positives = sums
        own, other = np.log(_ratio(challenger, positives)), np.log(_ratio(champion, positives))
        return np.asarray(np.abs(own) - np.abs(other))

    _check_lengths(labels, p_challenger, p_champion)
    columns = np.stack([p_challenger, p_champion, labels], axis=1).astype(float)
    draws = user_bootstrap(users, columns, num_resamples, seed)
    return _interval(difference(columns.sum(0)), difference(draws.T))


def bootstrap_ne_difference(
    labels: np.ndarray,
    p_challenger: np.ndarray,
    p_champion: np.ndarray,
    users: np.ndarray,
    *,
    relative: bool = True,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """NE of the challenger minus NE of the champion on the same rows; negative is better.

    Both are summed over the same draws, so what they share cancels. With `relative` the difference
    is divided by the champion's NE: 0.003 then means 0.3%.
    """

    def difference(sums: np.ndarray) -> np.ndarray:
        num_rows, positives, challenger, champion = sums
        base = _ne(num_rows, positives, champion)
        change = _ne(num_rows, positives, challenger) - base
        return _ratio(change, base if relative else 1.0)

    columns = _loss_columns(labels, p_challenger, p_champion)
    draws = user_bootstrap(users, columns, num_resamples, seed)
    return _interval(difference(columns.sum(0)), difference(draws.T))


def transfer_ratio(
    labels: np.ndarray,
    p_twin: np.ndarray,
    p_student: np.ndarray,
    p_teacher: np.ndarray,
    users: np.ndarray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> TransferRatio:
    """Share of the teacher's gain over the undistilled twin that reached the student.

    η = (NE_twin − NE_student) / (NE_twin − NE_teacher)

    Paper: Rec-Distill (arXiv 2605.29755), eta.
    Differs: refused where the teacher's gain is under 5 standard errors: the ratio is then noise.
    """
    gained = (p_twin, p_student, p_twin, p_teacher)
    what = "the teacher's gain over the twin"
    return _ratio_of_gains(labels, gained, what, users, num_resamples, seed)


def transfer_between_versions(
    labels: np.ndarray,
    p_students: tuple[np.ndarray, np.ndarray],
    p_teachers: tuple[np.ndarray, np.ndarray],
    users: np.ndarray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> TransferRatio:
    """Share of what a teacher gained between two versions that its student gained as well.

    TR = (NE_student,1 − NE_student,2) / (NE_teacher,1 − NE_teacher,2)

    Paper: LoopFM (arXiv 2605.29280), transfer ratio.
    Differs: refused where the teacher's gain is under 5 standard errors, or where it lost.

    Args:
        labels: 0 or 1.
        p_students: Probabilities of the earlier and of the later student.
        p_teachers: Those of the teachers that taught them.
        users: User of each row.
        num_resamples: Bootstrap resamples of users.
        seed: Of the resampling.
    """
    what = "the teacher's gain over its earlier version"
    gained = (*p_students, *p_teachers)
    return _ratio_of_gains(labels, gained, what, users, num_resamples, seed)


def _ratio_of_gains(
    labels: np.ndarray,
    probabilities: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    what: str,
    users: np.ndarray,
    num_resamples: int,
    seed: int,
) -> TransferRatio:
    """The second's NE below the first's over the fourth's below the third's."""

    def gains(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_rows, positives, *losses = sums
        ours, theirs = losses[0] - losses[1], losses[2] - losses[3]
        return _ne(num_rows, positives, ours), _ne(num_rows, positives, theirs)

    columns = _loss_columns(labels, *probabilities)
    draws = gains(user_bootstrap(users, columns, num_resamples, seed).T)
    value = gains(columns.sum(0))
    error = np.std(draws[1])
    # Draws of a single user are all alike up to rounding: their error is no error.
    if not 1e-12 < MIN_STANDARD_ERRORS * error <= value[1]:
        rule = f"{what} must be at least {MIN_STANDARD_ERRORS:g} standard errors"
        return TransferRatio(
            None, None, None, f"{rule}; found {value[1]:.6f} NE, standard error {error:.6f}"
        )
    return TransferRatio(*_interval(_ratio(*value), _ratio(*draws)), None)


def _loss_columns(labels: np.ndarray, *probabilities: np.ndarray) -> np.ndarray:
    _check_lengths(labels, *probabilities)
    losses = [_row_losses(labels, p) for p in probabilities]
    return np.stack([np.ones(len(labels)), labels.astype(float), *losses], axis=1)


def _interval(value: np.ndarray, draws: np.ndarray) -> Interval:
    """A figure with its percentiles over the draws for which it is defined."""
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))


def _row_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities.astype(np.float64), EPSILON, 1 - EPSILON)
    return -(labels * np.log(p) + (1.0 - labels) * np.log1p(-p))


def _ne(num_rows: _Number, positives: _Number, losses: _Number) -> np.ndarray:
    """Losses over the entropy of the base rate, both summed over rows; NaN where that is 0."""
    rate = _ratio(positives, num_rows)
    mixed = np.where((rate > 0) & (rate < 1), rate, np.nan)
    return _ratio(losses, num_rows * -(mixed * np.log(mixed) + (1 - mixed) * np.log1p(-mixed)))


def _ratio(numerator: _Number, denominator: _Number) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    nonzero = np.where(np.equal(denominator, 0), np.nan, denominator)
    return np.asarray(numerator / nonzero)


def _check_lengths(*arrays: np.ndarray) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            "metrics: all arrays must have one entry per row; found lengths "
            f"{[len(array) for array in arrays]}; evaluate every model on the same rows"
        )
