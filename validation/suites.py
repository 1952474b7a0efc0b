"""What every gate demands: native Great Expectations checks with a stable name.

One function per gate returns the checks of each of its parts. A check is a core expectation whose
`description` is the sentence that a reviewer reads and whose `meta["check"]` is its name:
`<gate>.<rule>`, with the part between the two where parts share columns. Range and set checks skip
nulls in Great Expectations, so each has a twin `<name>_known` that refuses a missing figure.

Rows that are too small to judge stay in the frame. The checks on them carry a row condition, and a
check of its own bounds how many rows may be left aside, so that a gate never passes unseen. The few
checks with `meta["always"]` cannot be switched off.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.row_conditions import Condition

Suite = dict[str, list["Expectation"]]
"""Part name to its checks, in the order in which a reviewer should read them."""


def events(*, min_rows_ratio: float, max_quarantine_ratio: float) -> Suite:
    """Gate 1: enough of every expected day arrived, and little of it was rejected.

    Args:
        min_rows_ratio: Least share of the median rows of earlier days.
        max_quarantine_ratio: Largest share of raw rows that may be rejected.
    """
    return {
        "days": [
            _unique("events.day", ["day"], "Every arrival day is listed once."),
            *_figure("events.rows", "rows", "Every day has accepted impressions.", low=1),
            *_figure(
                "events.rows_ratio",
                "rows_ratio",
                f"A day has at least {_percent(min_rows_ratio)} of the median of earlier days.",
                low=min_rows_ratio,
            ),
            *_figure(
                "events.quarantine_ratio",
                "quarantine_ratio",
                f"At most {_percent(max_quarantine_ratio)} of the raw rows of a day are rejected.",
                low=0,
                high=max_quarantine_ratio,
            ),
        ]
    }


def examples(*, max_null_ratio: float, max_rate_shift_ratio: float) -> Suite:
    """Gate 2: one example per impression, nothing from the future in it, base rates as before.

    Args:
        max_null_ratio: Largest share of mature labels that may be null.
        max_rate_shift_ratio: Largest relative change of a task's base rate.
    """
    return {
        "days": [
            _unique("examples.day", ["day"], "Every day is listed once."),
            *_figure("examples.examples", "examples", "Every day has examples.", low=1),
            *_figure(
                "examples.missing", "missing", "No impression lacks its example.", low=0, high=0
            ),
            *_figure(
                "examples.duplicates", "duplicates", "No impression id repeats.", low=0, high=0
            ),
            *_figure(
                "examples.leaks",
                "leaks",
                "No history shows an event known at or after its impression.",
                low=0,
                high=0,
            ),
            *_figure(
                "examples.null_labels_ratio",
                "null_labels_ratio",
                f"At most {_percent(max_null_ratio)} of the labels that should be mature are null.",
                low=0,
                high=max_null_ratio,
            ),
        ],
        "tasks": [
            _unique("examples.task", ["task"], "Every task is listed once."),
            *_figure(
                "examples.rate",
                "rate",
                "A task has both positive and negative examples.",
                low=0,
                high=1,
                strict=True,
            ),
            *_figure(
                "examples.rate_shift_ratio",
                "rate_shift_ratio",
                f"A base rate moves by at most {_percent(max_rate_shift_ratio)} of its past value.",
                low=0,
                high=max_rate_shift_ratio,
            ),
        ],
    }


def teacher(
    *,
    max_ne_regression_ratio: float,
    min_calibration: float,
    max_calibration: float,
    max_unjudged_ratio: float,
) -> Suite:
    """Gate 3: the teacher is no worse than its champion, overall and in no slice for certain.

    Args:
        max_ne_regression_ratio: Largest upper bound of NE over the champion's NE, minus one.
        min_calibration: Least tolerated predicted over observed positives.
        max_calibration: Largest tolerated predicted over observed positives.
        max_unjudged_ratio: Largest share of slices that may be too small to judge, below one.
    """
    return _models(
        "teacher", max_ne_regression_ratio, min_calibration, max_calibration, max_unjudged_ratio
    )


def family(
    *,
    max_ne_regression_ratio: float,
    min_calibration: float,
    max_calibration: float,
    max_unjudged_ratio: float,
) -> Suite:
    """Gate 4: as gate 3 for every student, and no student is worse for having been distilled.

    Args:
        max_ne_regression_ratio: As for gate 3.
        min_calibration: As for gate 3.
        max_calibration: As for gate 3.
        max_unjudged_ratio: As for gate 3; for the twins as well.
    """
    judged = _where(judged=True)
    return {
        **_models(
            "family", max_ne_regression_ratio, min_calibration, max_calibration, max_unjudged_ratio
        ),
        "twins": [
            _unique("family.twins.row", ["model", "task"], "Model and task occur once."),
            *_judged("family.twins", max_unjudged_ratio),
            *_figure(
                "family.twins.twin_joint_low",
                "twin_joint_low",
                "No student is certain to be worse than its twin without distillation, with 95 % "
                "confidence for all of them together.",
                high=0,
                where=judged,
            ),
        ],
    }


def absorbed(
    *,
    max_ne_regression_ratio: float,
    min_calibration: float,
    max_calibration: float,
    max_unjudged_ratio: float,
) -> Suite:
    """Gate 5: learning the gate window did no harm on the way, and left finite weights.

    This is progressive validation (Blum, Kalai and Langford, COLT 1999): a label is predicted
    before it is learnt, so the pass that makes the promoted weights is judged on every row of it.

    Args:
        max_ne_regression_ratio: Largest certain NE above that of the model that stood still.
        min_calibration: As for gate 3.
        max_calibration: As for gate 3.
        max_unjudged_ratio: As for gate 3, over models and tasks.
    """
    judged = _where(judged=True)
    return {
        "models": [
            _unique("absorbed.row", ["model", "task"], "Model and task occur once."),
            *_figure(
                "absorbed.finite_ratio",
                "finite_ratio",
                "Every weight and every prediction is a finite number.",
                low=1,
                high=1,
            ),
            *_judged("absorbed", max_unjudged_ratio),
            *_figure(
                "absorbed.versus_low",
                "versus_low",
                "Learning the window is not certain to have raised NE by more than "
                f"{_percent(max_ne_regression_ratio)}.",
                high=max_ne_regression_ratio,
                where=judged,
            ),
            *_calibration("absorbed", min_calibration, max_calibration, judged),
        ]
    }


def present(name: str) -> Expectation:
    """The check for rows that every part of every gate starts with.

    Args:
        name: The check's name.
    """
    return _row_count(name, "There is something to judge.", None)


def _models(
    gate: str,
    max_ne_regression_ratio: float,
    min_calibration: float,
    max_calibration: float,
    max_unjudged_ratio: float,
) -> Suite:
    """The checks that gates 3 and 4 share."""
    judged = _where(judged=True)
    key = ["model", "task", "slice_kind", "slice"]
    once = "Model, task and slice occur once."
    overall, slices = f"{gate}.overall", f"{gate}.slices"
    return {
        "overall": [
            _unique(f"{overall}.row", key, once),
            *_members(
                f"{overall}.slice_kind", "slice_kind", ["overall"], "Rows are whole windows."
            ),
            *_judged(overall, 0.0),
            *_members(
                f"{overall}.opponent",
                "opponent",
                ["champion", "log_odds"],
                "Every model is held against its champion or, on a first run, the log-odds.",
            ),
            _between(
                f"{overall}.versus_champion",
                "versus_high",
                f"NE is at most {_percent(max_ne_regression_ratio)} above the champion's, with "
                "95 % confidence.",
                high=max_ne_regression_ratio,
                where=_where(opponent="champion"),
            ),
            _between(
                f"{overall}.versus_log_odds",
                "versus_high",
                "NE is not above that of the smoothed log-odds, with 95 % confidence.",
                high=0,
                where=_where(opponent="log_odds"),
            ),
            _known(f"{overall}.versus_high", "versus_high", None),
            *_calibration(overall, min_calibration, max_calibration, None),
            *_quality(overall, None),
        ],
        "slices": [
            _unique(f"{slices}.row", key, once),
            *_members(
                f"{slices}.slice_kind",
                "slice_kind",
                ["domain", "vertical"],
                "Rows are domains or verticals.",
            ),
            *_judged(slices, max_unjudged_ratio),
            *_figure(
                f"{slices}.versus_low",
                "versus_low",
                "In no judged slice NE is certain to be above the opponent's.",
                high=0,
                where=judged,
            ),
            *_calibration(slices, min_calibration, max_calibration, judged),
            *_quality(slices, judged),
        ],
    }


def _judged(prefix: str, max_unjudged_ratio: float) -> list[Expectation]:
    """Bound how many rows may be left aside; below one, so that some row is always judged."""
    if not 0 <= max_unjudged_ratio < 1:
        raise ValueError(
            f"{prefix}: max_unjudged_ratio is at least 0 and below 1, or a gate could pass without "
            f"judging anything; found {max_unjudged_ratio}"
        )
    if not max_unjudged_ratio:
        return _members(f"{prefix}.judged", "judged", [True], "Every row is large enough to judge.")
    return [
        *_members(
            f"{prefix}.judged",
            "judged",
            [True],
            f"At most {_percent(max_unjudged_ratio)} of the rows are too small to judge.",
            mostly=round(1 - max_unjudged_ratio, 9),
        ),
        _row_count(
            f"{prefix}.judged_rows", "Some row is large enough to judge.", _where(judged=True)
        ),
    ]


def _calibration(
    prefix: str, low: float, high: float, where: Condition | None
) -> list[Expectation]:
    """Refuse a model whose calibration interval lies wholly outside [low, high].

    Unless the opponent is as far off: on a day whose base rate moved, refusing the newer model
    would leave the older one serving.
    """
    worse = _above("calibration_versus_low", 0.0)
    worse = worse if where is None else where & worse
    other = "and is further off than its opponent."
    return [
        _between(
            f"{prefix}.calibration_high",
            "calibration_high",
            f"No model is certain to predict fewer than {low:g} of the positives observed, {other}",
            low=low,
            where=worse,
        ),
        _between(
            f"{prefix}.calibration_low",
            "calibration_low",
            f"No model is certain to predict more than {high:g} times the positives, {other}",
            high=high,
            where=worse,
        ),
        *(
            _known(f"{prefix}.{name}", name, where)
            for name in (
                "calibration",
                "calibration_low",
                "calibration_high",
                "calibration_versus_low",
            )
        ),
    ]


def _quality(prefix: str, where: Condition | None) -> list[Expectation]:
    return [_known(f"{prefix}.{name}", name, where) for name in ("ne", "auc")]


def _row_count(name: str, description: str, where: Condition | None) -> Expectation:
    """At least one row; `always` keeps the check on whatever a configuration switches off."""
    return _gx().ExpectTableRowCountToBeBetween(
        min_value=1,
        row_condition=where,
        description=description,
        meta={"check": name, "always": True},
    )


def _figure(
    name: str,
    column: str,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    strict: bool = False,
    where: Condition | None = None,
) -> list[Expectation]:
    """A range check and its twin that refuses missing figures."""
    return [
        _between(name, column, description, low=low, high=high, strict=strict, where=where),
        _known(name, column, where),
    ]


def _between(
    name: str,
    column: str,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    strict: bool = False,
    where: Condition | None = None,
) -> Expectation:
    return _gx().ExpectColumnValuesToBeBetween(
        column=column,
        min_value=low,
        max_value=high,
        strict_min=strict,
        strict_max=strict,
        row_condition=where,
        description=description,
        meta={"check": name},
    )


def _known(name: str, column: str, where: Condition | None) -> Expectation:
    return _gx().ExpectColumnValuesToNotBeNull(
        column=column,
        row_condition=where,
        description=f"The figure {column} exists.",
        meta={"check": f"{name}_known"},
    )


def _members(
    name: str, column: str, values: list[Any], description: str, *, mostly: float = 1
) -> list[Expectation]:
    return [
        _gx().ExpectColumnValuesToBeInSet(
            column=column,
            value_set=values,
            mostly=mostly,
            description=description,
            meta={"check": name},
        ),
        _known(name, column, None),
    ]


def _unique(name: str, columns: list[str], description: str) -> Expectation:
    meta = {"check": name}
    if len(columns) == 1:
        return _gx().ExpectColumnValuesToBeUnique(
            column=columns[0], description=description, meta=meta
        )
    return _gx().ExpectCompoundColumnsToBeUnique(
        column_list=columns, description=description, meta=meta
    )


def _percent(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def _where(**equal: Any) -> Condition:
    """The rows in which one column has one value."""
    _gx()
    from great_expectations.expectations.row_conditions import Column

    ((name, value),) = equal.items()
    return Column(name) == value


def _above(name: str, limit: float) -> Condition:
    """The rows in which a column is above a limit; a missing figure is not."""
    _gx()
    from great_expectations.expectations.row_conditions import Column

    return Column(name) > limit


def _gx() -> ModuleType:
    """Great Expectations' core expectations; importing them takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations.expectations

    return great_expectations.expectations
