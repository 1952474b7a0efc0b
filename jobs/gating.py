"""From a job's figures to a gate's verdict: frames, limits, the table of verdicts.

The jobs compute small frames; `validation` judges them. Every verdict is appended to
`gate_reports`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs import ledgers
from jobs.command import log, write_json
from jobs.config import RunConfig

if TYPE_CHECKING:
    import pandas as pd

    from validation.gates import GateResult

NUMBERS = {"events": 1, "examples": 2, "teacher": 3, "family": 4, "absorbed": 5}

_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("day", pa.string()),
        ("gate", pa.string()),
        ("number", pa.int64()),
        ("passed", pa.bool_()),
        ("part", pa.string()),
        ("check", pa.string()),
        ("check_passed", pa.bool_()),
        ("observed", pa.string()),
        ("limit", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True)
class Verdict:
    """What a gate decided."""

    gate: str
    passed: bool
    reason: str
    page: str | None
    num_checks: int

    def summary(self) -> dict[str, Any]:
        """For the job's summary."""
        return vars(self)


def verdict_file(config: RunConfig, gate: str) -> Path:
    """A gate's full result in the run's folder."""
    return config.run_folder / "gates" / f"{NUMBERS[gate]}-{gate}.json"


def docs_folder(config: RunConfig) -> Path:
    """Root of the Great Expectations context; Data Docs lie in `docs/` below it."""
    return Path(config.home) / "gx"


def gate(config: RunConfig, name: str, frames: Mapping[str, pd.DataFrame]) -> Verdict:
    """Judge frames by a gate's suite.

    Args:
        config: The run's configuration; its `gates` hold the limits.
        name: The gate.
        frames: Part name to frame; a missing part fails the gate.

    Returns:
        The verdict, already kept.
    """
    from validation import suites
    from validation.gates import paired, run_gate

    limits = config.gates
    suite = {
        "events": lambda: suites.events(
            min_rows_ratio=limits.min_rows_ratio, max_quarantine_ratio=limits.max_quarantine_ratio
        ),
        "examples": lambda: suites.examples(
            max_null_ratio=limits.max_null_ratio, max_rate_shift_ratio=limits.max_rate_shift_ratio
        ),
        "teacher": lambda: suites.teacher(**_model_limits(config)),
        "family": lambda: suites.family(**_model_limits(config)),
        "absorbed": lambda: suites.absorbed(
            **_model_limits(config)
            | {"max_ne_regression_ratio": limits.max_absorbed_ne_regression_ratio}
        ),
    }[name]()
    result = run_gate(
        name,
        NUMBERS[name],
        paired(name, suite, frames),
        folder=docs_folder(config),
        run_id=config.run.run_id,
        disabled=limits.disabled_checks,
    )
    _keep(config, result)
    log.info("gate %d %s: %s", result.number, name, result.reason)
    return Verdict(name, result.passed, result.reason, result.page, len(result.checks))


def model_frames(
    gate_name: str, records: Sequence[Mapping[str, Any]], twins: Sequence[Mapping[str, Any]] = ()
) -> dict[str, pd.DataFrame]:
    """Frames of the gates on models out of evaluation records."""
    import pandas as pd

    from validation.frames import MODELS, TWINS

    overall = [record for record in records if record["slice_kind"] == "overall"]
    slices = [record for record in records if record["slice_kind"] != "overall"]
    frames = {
        "overall": pd.DataFrame(overall, columns=pd.Index(MODELS)),
        "slices": pd.DataFrame(slices, columns=pd.Index(MODELS)),
    }
    if gate_name == "family":
        frames["twins"] = pd.DataFrame(list(twins), columns=pd.Index(TWINS))
    return frames


def _model_limits(config: RunConfig) -> dict[str, float]:
    limits = config.gates
    return {
        "max_ne_regression_ratio": limits.max_ne_regression_ratio,
        "min_calibration": limits.min_calibration,
        "max_calibration": limits.max_calibration,
        "max_unjudged_ratio": limits.max_unjudged_ratio,
    }


def _keep(config: RunConfig, result: GateResult) -> None:
    write_json(verdict_file(config, result.name), result.to_dict())
    rows = [
        {
            "run_id": config.run.run_id,
            "day": config.plan.day.isoformat(),
            "gate": result.name,
            "number": result.number,
            "passed": result.passed,
            "part": check.part,
            "check": check.check,
            "check_passed": check.passed,
            "observed": json.dumps(check.observed),
            "limit": check.limit,
            "at": datetime.now(UTC),
        }
        for check in result.checks
    ]
    ledgers.append(config.table("gate_reports"), pa.Table.from_pylist(rows, schema=_SCHEMA))
