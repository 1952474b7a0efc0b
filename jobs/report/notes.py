"""What MLflow's pages say of a run and its models: notes in Markdown, tags, key figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.gating import docs_folder
from jobs.report import figures
from jobs.report.facts import Facts
from jobs.report.models import Model
from jobs.report.tree import OPPONENTS

MAX_TAG = 480
"""Characters of a tag that a list of runs still shows in full."""
MAX_ROWS = 30
"""Rows of a note's table: MLflow refuses notes of more than some thousand characters."""


def tags(facts: Facts) -> dict[str, str]:
    """Tags of the run's page."""
    outcome = facts.outcome
    found = {
        "verdict": outcome.kind,
        "outcome": outcome.sentence,
        "reason": outcome.reason[:MAX_TAG],
        "promoted": str(outcome.promotion is not None).lower(),
    }
    if outcome.promotion is not None:
        found["promotion"] = str(outcome.promotion)
    if outcome.gate is not None:
        found["refused_by_gate"] = str(outcome.gate)
    return found


def metrics(facts: Facts) -> dict[str, float]:
    """Key figures of the run; undefined ones may be among them."""
    found: dict[str, float] = {
        "run/seconds": facts.busy_seconds,
        "run/peak_memory_gb": facts.peak_memory_bytes / 1e9,
        "run/gates_passed": float(sum(gate.state == "passed" for gate in facts.gates)),
    }
    for name, rows in (("rows_learnt", facts.teacher.learnt), ("rows_judged", facts.judged)):
        if rows is not None:
            found[f"run/{name}"] = float(rows)
    for model, name in ((facts.teacher, "teacher"), (facts.family, "family")):
        for record in model.overall:
            for metric in ("ne", "auc", "calibration"):
                found[f"{name}/{metric}_{record.task}"] = record.own[metric].value
            found[f"{name}/versus_{record.opponent}_{record.task}"] = record.versus.value
    return found


def run_note(facts: Facts) -> str:
    """The description of the run's page."""
    config, outcome = facts.config, facts.outcome
    plan, zone = config.plan, config.contract.time_zone
    window = f"{figures.moment(plan.gate_start, zone)} to {figures.moment(plan.gate_end, zone)}"
    lines = [
        f"**{outcome.sentence}** {escape(outcome.reason)}",
        *(f"\n{escape(remark)}" for remark in facts.remarks),
        "",
        f"Retrain of the family `{config.family}` on {plan.day}, judged on {window} {zone}.",
        "",
        *figures_table(facts.models),
        "",
        "Gates: " + ", ".join(f"{gate.number} {gate.name} {gate.state}" for gate in facts.gates),
        "",
        "The report is the artifact `report/report.html`, also at "
        f"`{config.run_folder / 'report.html'}`. Data Docs of the gates: "
        f"`{docs_folder(config) / 'docs' / 'index.html'}`. "
        "The models are the child runs of this one.",
    ]
    return "\n".join(lines)


def run_name(facts: Facts) -> str:
    """What the list of runs calls the run: its day and how it ended."""
    outcome = facts.outcome
    how = {
        "promoted": f"promoted #{outcome.promotion}",
        "refused": f"refused by gate {outcome.gate}",
        "registered": "registered only",
        "conflict": "lost to another promotion",
    }
    return f"{facts.config.plan.day} {how.get(outcome.kind, outcome.kind)}"


def model_about(facts: Facts, model: Model) -> str:
    """What a registered model is, whatever its version."""
    role = {
        "teacher": "Teacher of all domains and tasks",
        "domain": f"Student of the domain {model.title}, distilled from the teacher",
        "vertical": f"Student of {model.domain}, {model.title}, distilled from its domain student",
    }[model.kind]
    return (
        f"{role}, in the family `{facts.config.family}`. A retrain registers two versions: stage "
        "`judged` is what the gates judged, stage `final` has learnt the gate window as well and "
        "is what a promotion serves. Aliases follow the table `promotions`: `champion` serves, "
        "`previous` served before it, `challenger` is the last one trained."
    )


def figures_table(models: Sequence[Model]) -> list[str]:
    """Lines of a table of models' figures on the gate window."""
    rows = [row for model in models for row in _rows(model)]
    if not rows:
        return ["No model was judged."]
    heads = "| model | task | NE | against | AUC | calibration | against twin |"
    more = [f"| {len(rows) - MAX_ROWS} more in the report |"] if len(rows) > MAX_ROWS else []
    return [heads, "| --- | --- | ---: | ---: | ---: | ---: | ---: |", *rows[:MAX_ROWS], *more]


def _rows(model: Model) -> Iterator[str]:
    for record in model.overall:
        gain = model.gain(record.task)
        small = "" if record.judged else " (too small to judge)"
        opponent = OPPONENTS.get(record.opponent, record.opponent)
        cells = [
            model.name,
            record.task + small,
            figures.decimal(record.own["ne"].value),
            f"{figures.change(record.versus.value)} {opponent}",
            figures.decimal(record.own["auc"].value),
            figures.decimal(record.own["calibration"].value, 3),
            "" if gain is None else figures.change(gain.versus.value),
        ]
        yield f"| {' | '.join(escape(cell) for cell in cells)} |"


def escape(text: str) -> str:
    """Text in which Markdown sees no emphasis and no cell border."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
