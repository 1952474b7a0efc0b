"""Model cards: what a registered version is, has learnt and is worth, in Markdown.

Paper: Mitchell et al. 2019 (arXiv 1810.03993), the sections that a retrain can fill by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from jobs.report import figures
from jobs.report.facts import Facts
from jobs.report.models import Model, Ratio, Record
from jobs.report.notes import escape, figures_table

MAX_SLICES = 8
"""Slices that a card lists, those of the largest difference to the opponent first."""


def model_card(facts: Facts, model: Model) -> str:
    """The card of the versions that a run registered of a model."""
    sections = {
        "Intended use": _use(facts, model),
        "Training data": _data(facts, model),
        "Training": _training(facts, model),
        "Evaluation": _evaluation(facts, model),
        "Distillation": _distillation(facts, model),
        "Slices that differ most": _slices(model),
        "Limits": _limits(facts, model),
    }
    lines = [f"{facts.outcome.sentence} Retrained on {facts.config.plan.day}."]
    for title, body in sections.items():
        if found := list(body):
            lines += ["", f"### {title}", "", *found]
    return "\n".join(lines)


def _use(facts: Facts, model: Model) -> Iterator[str]:
    contract = facts.config.contract
    if model.kind == "teacher":
        places = ", ".join(f"`{domain}`" for domain in contract.domains)
        yield (
            f"Probabilities of {_tasks(contract.tasks)} for every impression of {places}. Its "
            "scores teach the students; it is too large to serve."
        )
        return
    own = contract.domains[str(model.domain)]
    tasks = contract.tasks
    if model.kind == "vertical":
        surfaces = own.verticals[model.title].surfaces
        place = f"surfaces {', '.join(f'`{s}`' for s in surfaces)} of `{model.domain}`"
        tasks = contract.vertical_tasks(str(model.domain), model.title)
    else:
        place = f"every surface of `{model.domain}`"
    yield (
        f"Probabilities of {_tasks(tasks)} for ads on {place}. Not for other surfaces, nor for "
        "users or ads of another log."
    )


def _data(facts: Facts, model: Model) -> Iterator[str]:
    zone = facts.config.contract.time_zone
    if model.learnt is not None:
        since = facts.config.plan.trained_from if _has_parent(facts, model) else None
        start = "the first day of the run" if since is None else figures.moment(since, zone)
        end = figures.moment(facts.config.plan.gate_start, zone)
        yield (
            f"{model.learnt:,} impressions whose labels matured from {start} to {end} {zone}; "
            "stage `final` has learnt the gate window too."
        )
    read = [f"`{table.name}` version {table.version}" for table in facts.tables if table.pinned]
    if read:
        yield f"Tables: {', '.join(read)}."


def _training(facts: Facts, model: Model) -> Iterator[str]:
    plan = facts.config.plan
    if not _has_parent(facts, model):
        yield "Trained afresh, in one pass in order of time."
    else:
        yield f"One pass in order of time, from the weights of family #{plan.parent}."
    trial = ", ".join(f"{escape(name)} {value:g}" for name, value in model.trial.items())
    if trial:
        yield f"Settings chosen by tuning: {trial}."
    if model.hashes:
        hashes = (f"`{stage}` {digest}" for stage, digest in model.hashes.items())
        yield f"Weights: {', '.join(hashes)}. Code: {facts.config.run.code_hash}."


def _has_parent(facts: Facts, model: Model) -> bool:
    """Whether the model went on from one of its own; a new one in a known family did not."""
    parent = facts.lineage.parent
    return facts.config.plan.parent is not None and (parent is None or model.name in parent.members)


def _evaluation(facts: Facts, model: Model) -> Iterator[str]:
    if not model.overall:
        return
    plan, zone = facts.config.plan, facts.config.contract.time_zone
    start, end = figures.moment(plan.gate_start, zone), figures.moment(plan.gate_end, zone)
    yield f"On {start} to {end} {zone}, which stage `judged` has not seen."
    yield ""
    yield from figures_table([model])


def _distillation(facts: Facts, model: Model) -> Iterator[str]:
    if model.scorer is not None:
        scorer = next(one for one in facts.members if one.name == model.scorer)
        told = f": {scorer.teaches}" if scorer.teaches else ""
        yield f"- Learns from labels and from what `{model.scorer}` told{told}."
    for gain in model.gains:
        yield (
            f"- {escape(gain.task)}: {figures.change(gain.versus.value)} NE against the twin that "
            f"learnt from labels alone; eta {_told(gain.eta)}; TR {_told(gain.tr)}"
        )


def _slices(model: Model) -> Iterator[str]:
    judged = [record for record in model.slices if record.judged]
    judged.sort(key=lambda record: -record.versus.value)
    for record in judged[:MAX_SLICES]:
        yield (
            f"- {escape(record.slice)}, {escape(record.task)}: {_versus(record)}, calibration "
            f"{figures.decimal(record.own['calibration'].value, 3)}"
        )


def _limits(facts: Facts, model: Model) -> Iterator[str]:
    small = [record for record in [*model.overall, *model.slices] if not record.judged]
    if small:
        names = sorted({f"{record.slice} ({record.task})" for record in small})
        yield f"- Too few rows to judge: {escape(', '.join(names))}."
    for remark in facts.remarks:
        yield f"- {escape(remark)}"
    yield "- Judged on logged impressions, which an earlier family chose: no claim about others."


def _versus(record: Record) -> str:
    opponent = record.opponent.replace("_", "-")
    return f"{figures.change(record.versus.value)} NE against the {opponent}"


def _told(ratio: Ratio) -> str:
    if ratio.reason:
        return f"undefined ({escape(ratio.reason)})"
    return f"{ratio.value:.2f} ({ratio.told})"


def _tasks(tasks: object) -> str:
    return ", ".join(f"`{task}`" for task in tasks)  # pyright: ignore[reportGeneralTypeIssues]
