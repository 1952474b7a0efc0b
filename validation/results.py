"""What a gate found, as plain values: read from Great Expectations, written as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )

MAX_FAILING = 5
"""Failing rows that a check result repeats; the page in Data Docs shows all rows."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found."""

    part: str
    """Part of the gate; empty for what concerns the gate as a whole."""
    check: str
    """Stable dotted name."""
    description: str
    """The rule in one sentence."""
    passed: bool
    observed: Any
    """The figure nearest to the limit or farthest beyond it; otherwise a phrase."""
    limit: str
    """What the rule allows, in signs."""
    failing: list[dict[str, Any]] = field(default_factory=list)
    """The first rows that break the rule; a check with a quota may pass in spite of them."""


@dataclass(frozen=True)
class GateResult:
    """The verdict of one gate."""

    name: str
    number: int
    passed: bool
    checks: list[CheckResult]
    """Every check that was switched on, in the order of the suite."""
    page: str | None
    """Data Docs page of the first part that failed, or of the first part; None if there is none."""
    reason: str
    """One sentence: which check refused, what it found, what the limit is."""
    disabled: list[str]
    """Checks that the configuration left out."""

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values."""
        return asdict(self)


def part_results(
    gate: str, part: str, declared: Sequence[str], validation: ExpectationSuiteValidationResult
) -> list[CheckResult]:
    """Read a validation result of Great Expectations, from memory or from its store.

    Args:
        gate: Name of the gate.
        part: Name of the part.
        declared: Names of the checks, in the order in which they are reported.
        validation: What came of them.

    Returns:
        The checks, and a refusal if fewer were evaluated than declared.
    """
    found = {result.check: result for result in (_check(part, r) for r in validation.results)}
    results = [found[name] for name in declared if name in found]
    evaluated = validation.statistics["evaluated_expectations"]
    if evaluated != len(declared) or len(results) != len(declared):
        rule = "Every declared check is evaluated."
        results.append(refusal(gate, part, "evaluated", rule, evaluated, f"= {len(declared)}"))
    if not validation.success and all(result.passed for result in results):
        rule = "Great Expectations reports success."
        results.append(refusal(gate, part, "success", rule, "failure", "success"))
    return results


def refusal(
    gate: str, part: str, rule: str, description: str, observed: Any, limit: str
) -> CheckResult:
    """A failure that no expectation can express, such as a suite without checks."""
    name = ".".join(word for word in (gate, part, rule) if word)
    return CheckResult(part, name, description, False, observed, limit)


def reason(name: str, number: int, results: Sequence[CheckResult]) -> str:
    """One sentence on a gate: what refused first, what was found, what the limit is."""
    refused = [result for result in results if not result.passed]
    if not refused:
        return f"Gate {number} ({name}) passed {len(results)} checks."
    first, others = refused[0], len(refused) - 1
    words = [f"{k} {v}" for k, v in (first.failing or [{}])[0].items() if isinstance(v, str)]
    where = f", first at {', '.join(words)}" if words else ""
    more = f", and {others} more failed" if others else ""
    found = f"{first.observed:.6g}" if isinstance(first.observed, float) else first.observed
    return (
        f"Gate {number} ({name}) refused: {first.check} demands “{first.description.rstrip('.')}”, "
        f"found {found}{where}, limit {first.limit}{more}."
    )


def plain(value: Any) -> Any:
    """A value as JSON can hold it; a figure that is missing or not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _check(part: str, result: ExpectationValidationResult) -> CheckResult:
    config, details = result.expectation_config, result.result or {}
    assert config is not None, "a validation result names its expectation"
    meta: Mapping[str, Any] = config.meta or {}
    error = _error(result.exception_info or {})
    if error is not None:
        observed = f"the check could not run: {error}"
    elif meta.get("found") is not None:
        observed = meta["found"]
    elif "observed_value" in details:
        observed = details["observed_value"]
    else:
        observed = f"{details['unexpected_count']} of {details['element_count']} break it"
    rows = details.get("unexpected_index_list") or []
    names = details.get("unexpected_index_column_names") or []
    return CheckResult(
        part=part,
        check=meta["check"],
        description=config.description or "",
        passed=bool(result.success),
        observed=plain(observed),
        limit=limit(config.type, config.kwargs),
        failing=[plain({n: row[n] for n in [*names, *row]}) for row in rows[:MAX_FAILING]],
    )


def _error(info: Mapping[str, Any]) -> str | None:
    """The first exception behind a result; there is one entry per metric, or one flat entry."""
    for entry in [info] if "raised_exception" in info else info.values():
        if entry["raised_exception"]:
            return str(entry["exception_message"])
    return None


def limit(kind: str, kwargs: Mapping[str, Any]) -> str:
    """What an expectation of this type and these arguments allows, in signs."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is not None and low == high:
        return f"= {low:g}"
    bounds = []
    if low is not None:
        bounds.append(f"{'>' if kwargs.get('strict_min') else '≥'} {low:g}")
    if high is not None:
        bounds.append(f"{'<' if kwargs.get('strict_max') else '≤'} {high:g}")
    if bounds:
        return " and ".join(bounds)
    if "value_set" in kwargs:
        allowed = " or ".join(str(value) for value in kwargs["value_set"])
        mostly = kwargs.get("mostly", 1)
        return allowed if mostly == 1 else f"{allowed} in ≥ {100 * mostly:.6g} %"
    if kind == "expect_column_values_to_not_be_null":
        return "no gaps"
    return "no repeats" if "unique" in kind else kind
