"""The frames that the gates judge: small pandas tables that the jobs compute, one per gate part.

A gate never reads a big table itself. A job reduces it to a few rows in one pass, and the gate
holds those rows against its limits. Every dictionary below maps a column to its meaning, which the
gate's page in Data Docs repeats under the figures.

Ratios are shares of one. A figure that does not exist is NaN, never zero; an infinite figure counts
as one that does not exist. Days are local days of the contract, written YYYY-MM-DD.
"""

from __future__ import annotations

import pandas as pd

Columns = dict[str, str]

EVENT_DAYS: Columns = {
    "day": "arrival day; one row for every day that was expected, even if nothing arrived",
    "rows": "accepted impressions",
    "raw_rows": "rows read from the log, all feeds together",
    "quarantined": "raw rows that were rejected",
    "duplicates": "copies of a row that was already known, left out",
    "no_consent": "rows left out because their user did not consent",
    "quarantine_ratio": "quarantined / raw_rows",
    "median_rows": "median of the accepted impressions of earlier days; NaN where there is none",
    "rows_ratio": "rows / median_rows; 1 where there is no earlier day",
}
"""Gate 1 `events`, part `days`: one row per expected arrival day."""

EXAMPLE_DAYS: Columns = {
    "day": "day on which the impressions were shown",
    "impressions": "impressions of the day",
    "examples": "examples of the day",
    "missing": "impressions without an example",
    "duplicates": "repeated impression ids among the examples",
    "leaks": "histories that show an event known at or after their impression",
    "null_labels_ratio": "share of labels that should be mature and are null",
}
"""Gate 2 `examples`, part `days`: one row per day shown."""

EXAMPLE_TASKS: Columns = {
    "task": "task",
    "rows": "examples with a mature label",
    "rate": "share of positives among them",
    "rate_before": "share of positives in the days before; NaN where there is none",
    "rate_shift_ratio": "|rate / rate_before - 1|; 0 where there is no day before",
}
"""Gate 2 `examples`, part `tasks`: one row per task."""

MODELS: Columns = {
    "model": "registered name of the challenger",
    "task": "task",
    "slice_kind": "overall, domain or vertical",
    "slice": "name of the domain or vertical; 'all' for overall",
    "rows": "examples of the gate window",
    "positives": "positives among them",
    "judged": "whether the slice is large enough to judge",
    "opponent": "champion; on a first run log_odds: smoothed, of surface, item and user",
    "ne": "normalised entropy of the challenger; 1 is what the base rate alone reaches",
    "ne_low": "lower end of its 95 % interval",
    "ne_high": "upper end of its 95 % interval",
    "auc": "area under the ROC curve",
    "gauc": "AUC per user, weighted by impressions; NaN where no user has both outcomes",
    "calibration": "predicted over observed positives",
    "calibration_low": "lower end of its 95 % interval",
    "calibration_high": "upper end of its 95 % interval",
    "calibration_versus_low": "lower end of the 95 % interval of |ln calibration| less the other's",
    "versus_value": "NE of the challenger over NE of the opponent, minus one; negative is better",
    "versus_low": "lower end of its 95 % interval",
    "versus_high": "upper end of its 95 % interval",
}
"""Gates 3 `teacher` and 4 `family`, parts `overall` and `slices`: one row per model, task, slice.

Intervals resample users.
"""

TWINS: Columns = {
    "model": "registered name of the student",
    "task": "task",
    "rows": "examples of the gate window",
    "positives": "positives among them",
    "judged": "whether the gate window is large enough to judge",
    "twin_value": "NE of the student over NE of its twin that was not distilled, minus one",
    "twin_low": "lower end of its 95 % interval",
    "twin_high": "upper end of its 95 % interval",
    "twin_joint_low": "lower end of the intervals that hold for all judged rows at once, 95 %",
    "eta": "transfer ratio: share of the teacher's gain over the twin that the student keeps",
    "eta_low": "lower end of its 95 % interval",
    "eta_high": "upper end of its 95 % interval",
    "eta_reason": "why the transfer ratio is undefined; empty where it is defined",
    "tr": "share of the teacher's gain over its earlier version that the student gained as well",
    "tr_low": "lower end of its 95 % interval",
    "tr_high": "upper end of its 95 % interval",
    "tr_reason": "why that share is undefined; empty where it is defined",
}
"""Gate 4 `family`, part `twins`: one row per distilled student and task."""

ABSORBED: Columns = {
    "model": "registered name of the model after its last pass",
    "task": "task",
    "rows": "examples of the gate window",
    "positives": "positives among them",
    "judged": "whether the gate window is large enough to judge",
    "finite_ratio": "share of finite numbers among weights and predictions",
    "ne": "normalised entropy of predictions made while learning, each before its own label",
    "versus_value": "that NE over the judged model's, which learnt nothing on the way, minus one",
    "versus_low": "lower end of its 95 % interval",
    "versus_high": "upper end of its 95 % interval",
    "calibration": "predicted over observed positives, each predicted before it was learnt",
    "calibration_low": "lower end of its 95 % interval",
    "calibration_high": "upper end of its 95 % interval",
    "calibration_versus_low": "lower end of the 95 % interval of |ln calibration| less the other's",
}
"""Gate 5 `absorbed`, part `models`: one row per model and task, after the pass over the window."""

PARTS: dict[str, dict[str, Columns]] = {
    "events": {"days": EVENT_DAYS},
    "examples": {"days": EXAMPLE_DAYS, "tasks": EXAMPLE_TASKS},
    "teacher": {"overall": MODELS, "slices": MODELS},
    "family": {"overall": MODELS, "slices": MODELS, "twins": TWINS},
    "absorbed": {"models": ABSORBED},
}
"""Gate name to the frames of its parts."""


def checked(gate: str, part: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Hold a frame against its contract.

    Args:
        gate: Name of the gate.
        part: Name of the part.
        frame: The frame to be judged; it may have no rows, the gate then fails.

    Returns:
        The frame with its columns in the contract's order.

    Raises:
        ValueError: No such part, or the frame has not exactly the columns of the part.
    """
    columns = PARTS.get(gate, {}).get(part)
    if columns is None:
        known = ", ".join(f"{g}.{p}" for g, ps in PARTS.items() for p in ps)
        raise ValueError(f"{gate}.{part}: no such gate part; found only {known}")
    missing = [name for name in columns if name not in frame.columns]
    extra = [str(name) for name in frame.columns if name not in columns]
    repeated = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    if missing or extra or repeated:
        found = [
            f"{what} {', '.join(names)}"
            for what, names in (("missing", missing), ("unknown", extra), ("repeated", repeated))
            if names
        ]
        raise ValueError(
            f"{gate}.{part}: a frame has exactly the columns of its contract; "
            f"found {'; '.join(found)}; see validation/frames.py"
        )
    return frame.loc[:, list(columns)]
