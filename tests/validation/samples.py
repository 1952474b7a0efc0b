"""Frames that pass every gate, with the limits they pass."""

from math import nan

import pandas as pd

from validation import suites

LIMITS = {
    "max_ne_regression_ratio": 0.003,
    "min_calibration": 0.8,
    "max_calibration": 1.25,
    "max_unjudged_ratio": 0.5,
}


def all_suites():
    """The checks of every gate, by its name."""
    return {
        "events": suites.events(min_rows_ratio=0.3, max_quarantine_ratio=0.02),
        "examples": suites.examples(max_null_ratio=0.01, max_rate_shift_ratio=0.5),
        "teacher": suites.teacher(**LIMITS),
        "family": suites.family(**LIMITS),
        "absorbed": suites.absorbed(**LIMITS),
    }


def good_frames():
    """Gate name to part name to a frame that passes."""
    overall, slices = models("overall"), models("domain", "domain", "vertical")
    return {
        "events": {"days": event_days()},
        "examples": {"days": example_days(), "tasks": example_tasks()},
        "teacher": {"overall": overall, "slices": slices},
        "family": {"overall": overall, "slices": slices, "twins": twins()},
        "absorbed": {"models": absorbed()},
    }


def event_days():
    return pd.DataFrame(
        {
            "day": ["2026-03-01", "2026-03-02"],
            "rows": [980, 970],
            "raw_rows": [1000, 1000],
            "quarantined": [10, 20],
            "duplicates": [5, 5],
            "no_consent": [5, 5],
            "quarantine_ratio": [0.01, 0.02],
            "median_rows": [nan, 980.0],
            "rows_ratio": [1.0, 0.99],
        }
    )


def example_days():
    return pd.DataFrame(
        {
            "day": ["2026-03-01", "2026-03-02"],
            "impressions": [980, 970],
            "examples": [980, 970],
            "missing": [0, 0],
            "duplicates": [0, 0],
            "leaks": [0, 0],
            "null_labels_ratio": [0.0, 0.01],
        }
    )


def example_tasks():
    return pd.DataFrame(
        {
            "task": ["click", "purchase"],
            "rows": [1950, 1900],
            "rate": [0.07, 0.01],
            "rate_before": [0.068, nan],
            "rate_shift_ratio": [0.0294, 0.0],
        }
    )


def models(*kinds):
    """One row per kind for one model: the last one too small to judge if there are several."""
    rows = [
        {
            "model": "shop-teacher",
            "task": "click",
            "slice_kind": kind,
            "slice": f"slice {i}",
            "rows": 12_000,
            "positives": 840,
            "judged": True,
            "opponent": "champion",
            "ne": 0.84,
            "ne_low": 0.83,
            "ne_high": 0.85,
            "auc": 0.74,
            "gauc": 0.7,
            "calibration": 1.02,
            "calibration_low": 0.97,
            "calibration_high": 1.08,
            "calibration_versus_low": -0.01,
            "versus_value": -0.004,
            "versus_low": -0.009,
            "versus_high": 0.001,
        }
        for i, kind in enumerate(kinds)
    ]
    if len(rows) > 1:
        rows[-1] = too_small(rows[-1])
    return pd.DataFrame(rows)


def twins():
    rows = [
        {
            "model": f"shop-{domain}",
            "task": "click",
            "rows": 12_000,
            "positives": 840,
            "judged": True,
            "twin_value": -0.002,
            "twin_low": -0.005,
            "twin_high": 0.001,
            "twin_joint_low": -0.006,
            "eta": 0.4,
            "eta_low": 0.1,
            "eta_high": 0.7,
            "eta_reason": "",
            "tr": 0.5,
            "tr_low": 0.2,
            "tr_high": 0.9,
            "tr_reason": "",
        }
        for domain in ("feed", "stories", "search")
    ]
    rows[-1] = too_small(rows[-1]) | {"eta_reason": "too few positives", "tr_reason": "too few"}
    return pd.DataFrame(rows)


def absorbed():
    rows = [
        {
            "model": f"shop-{domain}",
            "task": "click",
            "rows": 12_000,
            "positives": 840,
            "judged": True,
            "finite_ratio": 1.0,
            "ne": 0.861,
            "versus_value": -0.004,
            "versus_low": -0.006,
            "versus_high": -0.002,
            "calibration": 1.02,
            "calibration_low": 0.97,
            "calibration_high": 1.08,
            "calibration_versus_low": -0.01,
        }
        for domain in ("teacher", "feed", "stories")
    ]
    rows[-1] = too_small(rows[-1])
    return pd.DataFrame(rows)


def too_small(row):
    """The row as it is when its slice is too small to judge."""
    figures = {k: nan for k, v in row.items() if isinstance(v, float) and k != "finite_ratio"}
    return row | figures | {"rows": 300, "positives": 9, "judged": False}
