"""Tell the whole story of one impression: where each value came from, and who has learnt it.

Reads every table and the model registry, and writes nothing. Guarantees: each table's part names
the commit that made it; what the row was made from is read at the versions that its commit names,
or, where those are gone, as it is now and said to be. Prints a page to read, and the same as the
last line's JSON.

    python -m jobs.explain_row 1234 --config var/runs/<run>/config.json
    python -m jobs.explain_row 1234 --recipe kuairand
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from jobs.command import JobSummary, exit_with
from jobs.config import Recipe, RunConfig, lapidary_home, load_config
from jobs.learners import learners, reaches
from jobs.recipe_command import chosen_recipe, recipe_parser
from jobs.repairs import TABLE as REPAIRS
from jobs.repairs import read_repairs
from jobs.report.row import page
from jobs.row_labels import explain_labels
from jobs.row_tables import FEATURES, RowTables, Story


def run(recipe: Recipe, home: str, impression: str) -> JobSummary:
    """Gather the story of an impression.

    Raises:
        ConfigError: No such impression.
    """
    tables = RowTables(f"{home}/tables/{recipe.contract.name}", recipe.contract.name)
    shown = tables.impression(impression)
    day = shown["event_day"]
    example = tables.one("examples", day, "impression_id", impression)
    label = tables.one("labels", day, "impression_id", impression)
    outcomes = tables.all("outcomes", "impression_id", impression)
    repairs = read_repairs(f"{tables.root}/{REPAIRS}")
    labels = explain_labels(recipe.contract, shown, outcomes, label or {}, repairs.until.get(day))
    story: Story = {
        "impression": shown,
        "outcomes": outcomes,
        "quarantine": tables.quarantined(recipe, shown),
        "labels": labels,
        "repairs": repairs.of(day),
        "features": None if example is None else tables.features(recipe, example),
        "history": None if example is None else tables.history(recipe, example),
        "scores": tables.scores(day, impression),
        "models": _models(recipe, home, shown["surface"], labels),
    }
    days = {"impressions": shown["day"], FEATURES: day - timedelta(days=1)}
    names = ["impressions", "labels", FEATURES, "timelines", "examples", *story["scores"]]
    story["commits"] = {name: tables.commit(name, days.get(name, day)) for name in names}
    return JobSummary(job="explain_row", rows={"impressions": 1}, details=story)


def _models(recipe: Recipe, home: str, surface: str, labels: Story) -> list[dict[str, Any]]:
    """Registered versions whose training covered the moment at which a label matured."""
    found = []
    for one in learners(recipe, home):
        reach = reaches(recipe)[one.name]
        learnt = [
            task
            for task, told in labels.items()
            if surface in reach.surfaces
            and task in reach.tasks
            and told["label"] is not None
            and one.learnt(told["mature_ts"])
        ]
        if learnt:
            found.append({**asdict(one), "tasks": learnt})
    return found


def _main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("impression", help="impression_id, as the tables hold it")
    parser.add_argument("--config", help="a run's config.json, in place of a recipe and the home")
    options = parser.parse_args()

    def body() -> dict[str, Any]:
        recipe, home = _place(options)
        summary = run(recipe, home, options.impression)
        print(page(recipe, summary.details))
        return asdict(summary)

    exit_with(body)


def _place(options: argparse.Namespace) -> tuple[Recipe, str]:
    if options.config:
        config: RunConfig = load_config(options.config)
        return config, config.home
    return chosen_recipe(options), str(lapidary_home())


if __name__ == "__main__":
    _main()
