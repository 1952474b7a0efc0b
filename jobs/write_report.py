"""Write the report of a run, however it ended.

Reads what the run's jobs left in its folder, the ledger of promotions, and the tables at the
versions that the run recorded. Writes `report.html` (one file that stands alone) and
`summary.txt` in the run's folder, and both, with verdict, reason and key figures, to the run's
page in MLflow, which it closes. Guarantees: nothing is judged here, only told; missing parts of a
run that ended early are named, not imputed.

    python -m jobs.write_report --config var/runs/<run>/config.json
"""

from __future__ import annotations

from pathlib import Path

from jobs import tracking
from jobs.command import JobSummary, log, main
from jobs.config import RunConfig
from jobs.report import notes
from jobs.report.cards import model_card
from jobs.report.facts import Facts, gather
from jobs.report.page import render
from jobs.report.summary import summarise

REPORT = "report.html"
SUMMARY = "summary.txt"


def run(config: RunConfig) -> JobSummary:
    """Gather the facts, draw them, and tell MLflow."""
    facts = gather(config)
    files = {REPORT: render(facts), SUMMARY: summarise(facts)}
    paths = [_write(config.run_folder / name, text) for name, text in files.items()]
    _record(facts, paths)
    log.info("%s %s: %s", config.family, config.plan.day, facts.outcome.sentence)
    return JobSummary(
        job="write_report",
        inputs={table.name: table.version for table in facts.tables if table.pinned},
        details={
            "verdict": facts.outcome.kind,
            "sentence": facts.outcome.sentence,
            "reason": facts.outcome.reason,
            "files": [str(path) for path in paths],
        },
        mlflow_run=config.run.mlflow_run,
    )


def _write(path: Path, text: str) -> Path:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _record(facts: Facts, paths: list[Path]) -> None:
    """Put verdict, figures and files on the pages of the run and of its models."""
    config = facts.config
    for model in facts.members:
        if model.learnt is not None:
            about, note = notes.model_about(facts, model), model_card(facts, model)
            versions = list(model.versions.values())
            tracking.describe_model(config, model.name, about, note, versions)
    parent = tracking.parent_run(config)
    parent.tags(notes.tags(facts))
    parent.metrics(notes.metrics(facts))
    parent.note(notes.run_note(facts))
    for path in paths:
        parent.file(path, "report")
    status = "FINISHED" if facts.outcome.ok else "FAILED"
    tracking.close_parent(config, notes.run_name(facts), status)


if __name__ == "__main__":
    main(run, __doc__)
