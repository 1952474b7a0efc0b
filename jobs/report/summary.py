"""The report on one screen: what `make retrain` prints at the end of a run."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.config import REPOSITORY, RunConfig
from jobs.gating import docs_folder
from jobs.report import figures
from jobs.report.facts import Facts
from jobs.report.models import Model, Record
from jobs.report.page import NAMES, beside, mlflow_uri

WIDTH = 100
MAX_LINES = 45
_LABEL = 11
_REASON_LINES, _REMARK_LINES, _LABELLED_LINES = 5, 4, 4
_MODEL, _TASK, _FIGURE = 20, 11, 8
_LEFT_OUT = ("teacher", "base_rate")
"""Beside a model these would only fill columns: the teacher has rows of its own, and the base rate
is at 1."""


def summarise(facts: Facts) -> str:
    """The report as text, at most 45 lines of 100 columns, paths excepted."""
    config = facts.config
    told = f"run {config.run.run_id}, {figures.duration(facts.busy_seconds)}"
    lines = [
        f"{config.family} {config.plan.day}: {told}, peak {figures.size(facts.peak_memory_bytes)}",
        *_wrapped("", facts.outcome.sentence, 2),
        *_wrapped("  ", facts.outcome.reason, _REASON_LINES),
        *(line for remark in facts.remarks for line in _wrapped("  ", remark, _REMARK_LINES)),
        "",
        *_labelled("Rows", _rows(facts)),
        *_labelled("Tables", ", ".join(f"{t.name} v{t.version}" for t in facts.tables if t.pinned)),
        *_labelled("Gates", ", ".join(f"{g.number} {g.name} {g.state}" for g in facts.gates)),
        *_labelled("Jobs", _slowest(facts)),
    ]
    closing = list(_places(facts))
    table = list(_table(facts))
    room = MAX_LINES - len(lines) - len(closing)
    if len(table) > room:
        table = [*table[: room - 1], f"… {len(table) - room + 1} more lines in the report"]
    return "\n".join([*lines, *table, *closing]) + "\n"


def _rows(facts: Facts) -> str:
    arrivals = facts.data.arrivals
    words = []
    if arrivals:
        words = [
            f"{sum(day.accepted for day in arrivals):,} accepted",
            f"{sum(day.duplicates for day in arrivals):,} duplicates",
            f"{sum(day.rejected for day in arrivals):,} quarantined",
        ]
    counts = (("learnt", facts.teacher.learnt), ("in the gate window", facts.judged))
    words += [f"{rows:,} {name}" for name, rows in counts if rows is not None]
    return ", ".join(words) or "none"


def _slowest(facts: Facts) -> str:
    ran = sorted((job for job in facts.jobs if job.ran and not job.inner), key=lambda j: -j.seconds)
    words = [f"{job.title} {figures.duration(job.seconds)}" for job in ran[:4]]
    words += ["…"] if len(ran) > len(words) else []
    missing = sum(not job.ran for job in facts.jobs)
    return (", ".join(words) or "none") + (f"; {missing} not run" if missing else "")


def _table(facts: Facts) -> Iterator[str]:
    """Every model and task beside its twin, its opponent and the baselines."""
    records = [(model, record) for model in facts.models for record in model.overall]
    if not records:
        return
    plan, zone = facts.config.plan, facts.config.contract.time_zone
    window = f"{figures.moment(plan.gate_start, zone)} to {figures.moment(plan.gate_end, zone)}"
    others = [key for key in beside([record for _, record in records]) if key not in _LEFT_OUT]
    yield ""
    yield from _wrapped("", f"NE in the gate window, {window} {zone}; lower is better", 2)
    if not all(record.judged for _, record in records):
        # Above the rows, because a long table is cut at its end.
        yield "* too small to judge"
    heads = ["NE", *(NAMES.get(key, key) for key in others), "AUC", "calib."]
    titles = "".join(f"{head[:_FIGURE]:>{_FIGURE}} " for head in heads)
    yield f"{'model':<{_MODEL}}{'task':<{_TASK}}{titles}".rstrip()
    before = None
    for model, record in records:
        name = "" if model is before else _title(model)
        yield f"{_cut(name, _MODEL)}{_cut(record.task, _TASK)}" + _figures(record, others)
        before = model
    yield ""


def _figures(record: Record, others: Sequence[str]) -> str:
    values = [
        figures.decimal(record.own["ne"].value) + ("" if record.judged else "*"),
        *(figures.decimal(record.others["ne"].get(key, math.nan)) for key in others),
        figures.decimal(record.own["auc"].value),
        figures.decimal(record.own["calibration"].value, 3),
    ]
    # An asterisk stands beyond the column, so that figures stay aligned.
    return "".join(
        f"{value.rstrip('*'):>{_FIGURE}}" + ("*" if value.endswith("*") else " ")
        for value in values
    ).rstrip()


def _places(facts: Facts) -> Iterator[str]:
    config = facts.config
    yield from _labelled("Family", _promotion(facts))
    yield f"{'Report':<{_LABEL}}{_short(config.run_folder / 'report.html')}"
    yield f"{'Data Docs':<{_LABEL}}{_short(docs_folder(config) / 'docs' / 'index.html')}"
    yield f"{'MLflow':<{_LABEL}}{_mlflow(config)}"


def _promotion(facts: Facts) -> str:
    serving = facts.lineage.serving
    if serving is None:
        return "none serves yet"
    until = figures.moment(serving.trained_until, "UTC")
    return f"#{serving.number} serves, trained until {until} UTC, of run {serving.run_id}"


def _mlflow(config: RunConfig) -> str:
    uri = mlflow_uri(config)
    if uri.startswith("http"):
        return f"{uri}, run {config.run.mlflow_run}"
    if config.resources.mlflow_uri is None:
        uri = f"sqlite:///{_short(Path(config.home) / 'mlflow' / 'mlflow.db')}"
    return f"mlflow ui --backend-store-uri {uri}"


def _title(model: Model) -> str:
    if model.kind == "family":
        return "family as served"
    return model.title if model.kind != "vertical" else f"{model.domain}-{model.title}"


def _labelled(label: str, text: str) -> list[str]:
    lines = _wrapped("", text, _LABELLED_LINES, WIDTH - _LABEL)
    heads = [label, *[""] * len(lines)]
    return [f"{head:<{_LABEL}}{line}" for head, line in zip(heads, lines, strict=False)]


def _wrapped(indent: str, text: str, most: int, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        max_lines=most,
        placeholder=" …",
        break_on_hyphens=False,
    )


def _cut(text: str, width: int) -> str:
    return f"{text if len(text) < width else text[: width - 2] + '…':<{width}}"


def _short(path: Path) -> str:
    """A path from the repository, where it lies there."""
    return os.path.relpath(path, REPOSITORY) if path.is_relative_to(REPOSITORY) else str(path)
