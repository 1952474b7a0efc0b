"""The figures of a run's models, read from the records that the judging jobs left."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.config import RunConfig
from jobs.family import domain_name, scorer_name, stage_folder, teacher_name, vertical_name
from jobs.report.figures import Interval, number
from jobs.report.runs import Job

METRICS = ("ne", "auc", "gauc", "calibration")
OTHERS = ("champion", "twin", "teacher", "trees", "logistic", "log_odds", "base_rate")
"""What may be shown beside a model, in reading order."""
NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Record:
    """A model's figures for one task and slice of the gate window."""

    model: str
    task: str
    kind: str
    """`overall`, `domain` or `vertical`."""
    slice: str
    rows: int
    positives: int
    judged: bool
    opponent: str
    """`champion`, `log_odds`, or `judged` for what was predicted while the window was learnt."""
    own: dict[str, Interval]
    """Metric to its value; bounds are NaN where no interval was estimated."""
    others: dict[str, dict[str, float]]
    """Metric to the values of what is shown beside the model."""
    versus: Interval
    """NE over the opponent's NE, minus one."""

    @property
    def base_rate(self) -> float:
        """Share of positives."""
        return self.positives / self.rows if self.rows else math.nan

    def why_undefined(self, metric: str) -> str:
        """Why a metric of this record does not exist."""
        if self.rows == 0:
            return "no rows"
        if self.positives in (0, self.rows):
            return "no positives" if self.positives == 0 else "no negatives"
        return "no user has both outcomes" if metric == "gauc" else "not recorded"

    def best(self, metric: str) -> set[str]:
        """Who has the best value of a metric; `model` is the model itself."""
        found = {"model": self.own[metric].value, **self.others.get(metric, {})}
        known = {name: _badness(metric, value) for name, value in found.items()}
        known = {name: value for name, value in known.items() if not math.isnan(value)}
        if len(known) < 2:
            return set()
        least = min(known.values())
        return {name for name, value in known.items() if value <= least + 5e-5}


@dataclass(frozen=True)
class Ratio:
    """A transfer ratio with its 95 % interval; NaN where it is undefined, and then why."""

    value: float
    low: float
    high: float
    reason: str

    @property
    def told(self) -> str:
        """Its interval, or why there is none."""
        if self.reason:
            return self.reason
        return f"95 %: {self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class Gain:
    """What distillation gave a student in one task."""

    task: str
    rows: int
    positives: int
    judged: bool
    versus: Interval
    """NE over the twin's NE, minus one."""
    eta: Ratio
    """Share of the teacher's gain over the twin that arrived."""
    tr: Ratio
    """Share of the teacher's gain over its earlier version that the student gained as well."""


@dataclass(frozen=True)
class Curve:
    """Observed against predicted rate of one predictor, by bins of the prediction."""

    task: str
    key: str
    """`model`, `twin`, `champion` or a baseline."""
    predicted: list[float]
    observed: list[float]
    rows: list[float]


@dataclass(frozen=True)
class Learning:
    """NE of labels before they were learnt, a point per segment of training."""

    task: str
    key: str
    """`model` or `twin`."""
    ends: list[datetime]
    ne: list[float]


@dataclass(frozen=True)
class Model:
    """One model of the family; the family as a whole has the kind `family`."""

    name: str
    title: str
    """Short name: `teacher`, the domain, or the vertical."""
    kind: str
    domain: str | None = None
    scorer: str | None = None
    """Registered name of the model whose scores a student learns from."""
    overall: list[Record] = field(default_factory=list)
    slices: list[Record] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    learning: list[Learning] = field(default_factory=list)
    absorbed: list[Record] = field(default_factory=list)
    """Predictions made while the gate window was learnt, beside the model that stood still."""
    learnt: int | None = None
    """Rows learnt before the gate window."""
    trained_until: str | None = None
    trial: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """Stage to registered version."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Stage to hash of the weights."""

    coverage: float = math.nan
    """Share of its rows that it scored for students; NaN for a model that teaches none."""
    staleness_days: float = math.nan
    """From what it had learnt to the impressions that it scored, on average."""

    @property
    def teaches(self) -> str:
        """How its scores are, in words; empty for a model that teaches none."""
        if math.isnan(self.coverage):
            return ""
        age = "" if math.isnan(self.staleness_days) else f", {self.staleness_days:.1f} days old"
        return f"scores of {self.coverage:.0%} of its rows{age}".replace("%", " %")

    def gain(self, task: str) -> Gain | None:
        """What distillation gave in a task."""
        return next((gain for gain in self.gains if gain.task == task), None)


def read_models(config: RunConfig, jobs: Sequence[Job]) -> list[Model]:
    """Teacher, domain students, vertical students, and the family as it serves."""
    reader = _Reader(config, jobs)
    teacher = teacher_name(config)
    found = [reader.model(teacher, "teacher", "teacher", None, "train_teacher", None)]
    for domain in config.contract.domains:
        name = domain_name(config, domain)
        found.append(reader.model(name, domain, "domain", domain, "train_domain_student", domain))
    for domain, settings in config.contract.domains.items():
        for vertical in settings.verticals:
            part = f"{domain}-{vertical}"
            name = vertical_name(config, part)
            job = "train_vertical_student"
            found.append(reader.model(name, vertical, "vertical", domain, job, part))
    return [*found, reader.model(config.family, "family", "family", None, "", None)]


class _Reader:
    """The files of a run that tell of its models."""

    def __init__(self, config: RunConfig, jobs: Sequence[Job]) -> None:
        self.config = config
        self.jobs = jobs
        folder = config.run_folder
        metrics = [*_rows(folder / "metrics_teacher.json"), *_rows(folder / "metrics_family.json")]
        self.records = [_record(row) for row in metrics]
        self.gains = _rows(folder / "metrics_twins.json")
        self.absorbed = [_record(row) for row in _rows(folder / "metrics_absorbed.json")]
        self.curves = [
            *_rows(folder / "reliability_teacher.json"),
            *_rows(folder / "reliability_family.json"),
        ]

    def model(
        self, name: str, title: str, kind: str, domain: str | None, job: str, part: str | None
    ) -> Model:
        own = [record for record in self.records if record.model == name]
        whole = kind if kind in ("domain", "vertical") else "overall"
        trained = next(
            (j for j in self.jobs if j.name == job and (part is None or j.part in (part, name))),
            Job(job),
        )
        scored = self._scored(kind, trained)
        tasks = list(self.config.contract.tasks)
        if kind == "vertical" and domain is not None:
            tasks = self.config.contract.vertical_tasks(domain, title)
        return Model(
            name=name,
            title=title,
            kind=kind,
            domain=domain,
            scorer=_scorer(self.config, kind, part),
            overall=[record for record in own if record.kind == whole],
            slices=[record for record in own if record.kind != whole],
            gains=[_gain(row) for row in self.gains if row["model"] == name],
            curves=[_curve(row) for row in self.curves if row["model"] == name],
            learning=_learning(trained, tasks),
            absorbed=[record for record in self.absorbed if record.model == name],
            learnt=trained.rows.get("learnt"),
            trial=trained.details.get("trial", {}),
            coverage=number(scored.get("coverage")),
            staleness_days=number(scored.get("age_days")),
            **self._registered(name, trained),
        )

    def _scored(self, kind: str, trained: Job) -> Mapping[str, Any]:
        """Facts of a model's scores: a domain student's own job told them, for the teacher a job
        of its own."""
        if kind == "teacher":
            trained = next(
                (j for j in self.jobs if j.name == "score_teacher"), Job("score_teacher")
            )
        return trained.details.get("scores", {})

    def _registered(self, name: str, trained: Job) -> dict[str, Any]:
        promoted = next((job for job in self.jobs if job.name == "promote_family"), None)
        finals = {} if promoted is None else promoted.details.get("versions", {})
        versions = {"judged": trained.details.get("version"), "final": finals.get(name)}
        hashes, until = {}, None
        for stage in versions:
            folder = stage_folder(self.config, name, stage)
            manifest = _json(folder / "manifest.json")
            if manifest:
                hashes[stage] = str(manifest.get("model.safetensors", ""))[:12]
            until = _json(folder / "card.json").get("trained_until", until)
        return {
            "versions": {stage: str(v) for stage, v in versions.items() if v is not None},
            "hashes": hashes,
            "trained_until": until,
        }


def _scorer(config: RunConfig, kind: str, part: str | None) -> str | None:
    if kind == "domain":
        return teacher_name(config)
    return scorer_name(config, part) if kind == "vertical" and part is not None else None


def _record(row: Mapping[str, Any]) -> Record:
    own = {metric: _interval(row, metric) for metric in METRICS}
    others: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        prefix = f"{metric}_"
        found = {
            key.removeprefix(prefix): number(value)
            for key, value in row.items()
            if key.startswith(prefix) and not key.endswith(("_low", "_high"))
        }
        others[metric] = {name: found[name] for name in sorted(found, key=_reading_order)}
    return Record(
        model=row["model"],
        task=row["task"],
        kind=row["slice_kind"],
        slice=row["slice"],
        rows=int(row["rows"]),
        positives=int(row["positives"]),
        judged=bool(row["judged"]),
        opponent=row["opponent"],
        own=own,
        others=others,
        versus=_interval(row, "versus"),
    )


def _gain(row: Mapping[str, Any]) -> Gain:
    return Gain(
        task=row["task"],
        rows=int(row["rows"]),
        positives=int(row["positives"]),
        judged=bool(row["judged"]),
        versus=_interval(row, "twin"),
        eta=_ratio(row, "eta"),
        tr=_ratio(row, "tr"),
    )


def _ratio(row: Mapping[str, Any], name: str) -> Ratio:
    value, low, high = (number(row.get(key)) for key in (name, f"{name}_low", f"{name}_high"))
    return Ratio(value, low, high, row.get(f"{name}_reason") or "")


def _curve(row: Mapping[str, Any]) -> Curve:
    sides = {
        side: [number(value) for value in row[side]] for side in ("predicted", "observed", "rows")
    }
    return Curve(task=row["task"], key=row["key"], **sides)


def _learning(job: Job, tasks: Sequence[str]) -> list[Learning]:
    found = []
    for key, name in (("model", "curve"), ("twin", "twin_curve")):
        segments = job.details.get(name)
        if not segments:
            continue
        ends = [datetime.fromisoformat(segment["ends"]) for segment in segments]
        for t, task in enumerate(tasks):
            ne = [number(segment["ne"][t]) for segment in segments]
            found.append(Learning(task, key, ends, ne))
    return found


def _interval(row: Mapping[str, Any], name: str) -> Interval:
    value = row.get(name, row.get(f"{name}_value"))
    return Interval(number(value), number(row.get(f"{name}_low")), number(row.get(f"{name}_high")))


def _badness(metric: str, value: float) -> float:
    """Distance from the best possible value; predicted and observed differ as a ratio."""
    if metric == "ne":
        return value
    if metric == "calibration":
        return abs(math.log(value)) if value > 0 else math.nan
    return -value


def _reading_order(name: str) -> tuple[int, str]:
    return (OTHERS.index(name) if name in OTHERS else len(OTHERS), name)


def _rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
