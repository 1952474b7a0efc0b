"""What happened in a run: its jobs, its gates, and how it ended.

A run can stop at any job, so every part of what it leaves may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.command import JobSummary, read_summaries
from jobs.config import RunConfig
from jobs.errors import ConfigError, GateFailed, PromotionConflict
from jobs.gating import NUMBERS, docs_folder, verdict_file
from jobs.run_local import STEPS, parts

OWN = "write_report"
"""The job that writes the report; it is not one of its rows."""

GATE_JOBS = {
    "events": "gate_events",
    "examples": "gate_examples",
    "teacher": "judge_teacher",
    "family": "judge_family",
    "absorbed": "absorb_gate_window",
}
"""Gate name to the job that holds it."""


@dataclass(frozen=True)
class Job:
    """One job of the run, or one that never began."""

    name: str
    part: str | None = None
    """Which student."""
    state: str = "not run"
    """`done`, `refused`, `failed` or `not run`."""
    error: str = ""
    inner: bool = False
    """Whether it ran within the job before it."""
    started: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    inputs: dict[str, int | None] = field(default_factory=dict)
    outputs: dict[str, int | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and part."""
        return self.name if self.part is None else f"{self.name} {self.part}"

    @property
    def ran(self) -> bool:
        """Whether it began."""
        return self.state != "not run"


@dataclass(frozen=True)
class Check:
    """One check of a gate."""

    part: str
    name: str
    description: str
    passed: bool
    observed: Any
    limit: str
    failing: list[dict[str, Any]]

    @property
    def formal(self) -> bool:
        """Whether it held no figure against a limit: it asks that figures exist or occur once."""
        found = str(self.observed)
        return self.passed and (
            self.name.endswith(("_known", ".present"))
            or found == "no figure"
            or found.startswith("0 of ")
        )


@dataclass(frozen=True)
class Gate:
    """A gate and its verdict."""

    number: int
    name: str
    state: str
    """`passed`, `refused`, or `not judged`."""
    reason: str = ""
    checks: list[Check] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    pages: dict[str, Path] = field(default_factory=dict)
    """Part to its newest page in Data Docs."""

    @property
    def refused(self) -> bool:
        """Whether it refused."""
        return self.state == "refused"

    @property
    def failed(self) -> list[Check]:
        """The checks that refused."""
        return [check for check in self.checks if not check.passed]

    @property
    def measured(self) -> list[Check]:
        """Passed checks that held a figure against a limit."""
        return [check for check in self.checks if check.passed and not check.formal]

    @property
    def formal(self) -> list[Check]:
        """Passed checks of form."""
        return [check for check in self.checks if check.formal]


@dataclass(frozen=True)
class Outcome:
    """How the run ended."""

    kind: str
    """`promoted`, `refused`, `registered`, `conflict`, `crashed` or `unfinished`."""
    sentence: str
    """The verdict."""
    reason: str
    """Why, with the deciding figures."""
    promotion: int | None = None
    """Number of the promotion that the run made."""
    gate: int | None = None
    """Number of the gate that refused."""

    @property
    def ok(self) -> bool:
        """Whether the run did all that it was meant to do."""
        return self.kind in ("promoted", "registered")


def read_jobs(config: RunConfig) -> list[Job]:
    """Jobs in their order: those that ran by their start, the others where they would have been."""
    ran = [_job(summary) for summary in read_summaries(config) if summary.job != OWN]
    ran = [_within(job, ran) for job in ran]
    jobs = list(ran)
    at = 0
    for step in STEPS:
        for arguments in parts(config, step):
            student = arguments.get("student")
            own = [
                job for job in jobs if job.name == step and _same(config, job.part, student, step)
            ]
            if own:
                at = max(at, jobs.index(own[0]) + 1)
                continue
            while at < len(jobs) and jobs[at].inner:
                at += 1
            jobs.insert(at, Job(step, student))
            at += 1
    return jobs


def read_gates(config: RunConfig) -> list[Gate]:
    """All gates, by number."""
    return [_gate(config, name, number) for name, number in NUMBERS.items()]


def find_outcome(
    config: RunConfig, jobs: Sequence[Job], gates: Sequence[Gate], champion: int | None
) -> Outcome:
    """How the run ended.

    Args:
        config: The run's configuration.
        jobs: Its jobs.
        gates: Its gates.
        champion: Number of the family that serves now.
    """
    serving = "no family serves yet" if champion is None else f"family #{champion} goes on serving"
    refused = [gate for gate in gates if gate.state == "refused"]
    failed = [job for job in jobs if job.state == "failed"]
    promote = next((job for job in jobs if job.name == "promote_family"), None)
    if promote is not None and promote.state == "done":
        return _promotion(config, promote.details, gates, serving)
    if refused:
        gate = refused[0]
        sentence = f"Refused by gate {gate.number} ({gate.name}); {serving}."
        return Outcome("refused", sentence, gate.reason, gate=gate.number)
    if failed:
        job = failed[-1]
        kind = "conflict" if job.error.startswith(PromotionConflict.__name__) else "crashed"
        how = "Not promoted: another promotion came first" if kind == "conflict" else "Crashed"
        return Outcome(kind, f"{how} in {job.title}; {serving}.", job.error)
    done = [job for job in jobs if job.ran and not job.inner]
    after = f"after {done[-1].title}" if done else "before any job"
    missing = [job.title for job in jobs if not job.ran]
    reason = f"Not run: {', '.join(missing)}." if missing else ""
    return Outcome("unfinished", f"Ended {after} without a verdict; {serving}.", reason)


def page_parts(folder: Path, number: int, name: str, run_id: str) -> dict[str, Path]:
    """The newest page in Data Docs of every part of a gate in a run."""
    found = {}
    for part in sorted((folder / "docs" / "validations").glob(f"{number}-{name}-*")):
        pages = sorted((part / run_id).glob("*/*.html"))
        if pages:
            found[part.name.removeprefix(f"{number}-{name}-")] = pages[-1]
    return found


def _promotion(
    config: RunConfig, details: Mapping[str, Any], gates: Sequence[Gate], serving: str
) -> Outcome:
    reason = str(details.get("reason", ""))
    if not details.get("promoted"):
        sentence = f"Registered, not promoted; {serving}."
        return Outcome("registered", sentence, reason or config.plan.reason)
    promoted = details.get("champion")
    checks = sum(len(gate.checks) for gate in gates)
    passed = sum(gate.state == "passed" for gate in gates)
    sentence = f"Promoted as family #{promoted}: {passed} gates passed with {checks} checks."
    return Outcome("promoted", sentence, reason, promotion=promoted)


def _job(summary: JobSummary) -> Job:
    error = str(summary.details.get("failed", ""))
    kind = error.split(":", 1)[0]
    state = "done"
    if error:
        state = "refused" if kind == GateFailed.__name__ else "failed"
        if kind in (GateFailed.__name__, ConfigError.__name__):
            error = error.removeprefix(f"{kind}: ")
    return Job(
        name=summary.job,
        part=summary.part,
        state=state,
        error=error,
        started=summary.started,
        seconds=summary.seconds,
        peak_memory_bytes=summary.peak_memory_bytes,
        inputs=summary.inputs,
        outputs=summary.outputs,
        rows=summary.rows,
        details=summary.details,
    )


def _within(job: Job, jobs: Sequence[Job]) -> Job:
    """A job that is no step of its own and ran inside one that is."""
    if job.name in STEPS:
        return job
    ends = job.started + job.seconds
    inner = any(
        other.name in STEPS
        and other.started <= job.started
        and ends <= other.started + other.seconds + 1
        for other in jobs
    )
    return Job(**{**vars(job), "inner": inner})


def _same(config: RunConfig, part: str | None, student: str | None, step: str) -> bool:
    """Whether a summary's part is a student, under its own or its registered name."""
    if not step.endswith("_student"):
        return True
    return part in (student, f"{config.family}-{student}")


def _gate(config: RunConfig, name: str, number: int) -> Gate:
    pages = page_parts(docs_folder(config), number, name, config.run.run_id)
    path = verdict_file(config, name)
    if not path.is_file():
        return Gate(number, name, "not judged", pages=pages)
    held = json.loads(path.read_text(encoding="utf-8"))
    checks = [
        Check(
            part=check.get("part", ""),
            name=check["check"],
            description=check.get("description", ""),
            passed=bool(check["passed"]),
            observed=check.get("observed"),
            limit=check.get("limit", ""),
            failing=check.get("failing", []),
        )
        for check in held.get("checks", [])
    ]
    return Gate(
        number=number,
        name=name,
        state="passed" if held["passed"] else "refused",
        reason=held.get("reason", ""),
        checks=checks,
        disabled=held.get("disabled", []),
        pages=pages,
    )
