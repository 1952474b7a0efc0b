"""Where a run comes from: settings, code, the families before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.config import Recipe, RunConfig
from jobs.promotions import Promotion, read_ledger
from jobs.recipes import RECIPES

MAX_ROWS = 8
"""Newest rows of the ledger that are shown."""


@dataclass(frozen=True)
class Setting:
    """A setting that differs from the recipe's."""

    name: str
    recipe: str
    run: str


@dataclass(frozen=True)
class Lineage:
    """Where a run comes from."""

    settings: list[Setting]
    recipe_known: bool
    """Whether the recipe still exists under its name."""
    parent: Promotion | None
    """The family that training went on from."""
    champion: Promotion | None
    """The family that the gates judged against."""
    serving: Promotion | None
    """The family that serves now."""
    ledger: list[Promotion]
    """Newest rows, the newest first."""


def read_lineage(config: RunConfig) -> Lineage:
    """Gather it."""
    ledger = read_ledger(config.table("promotions"))
    known = {row.number: row for row in ledger.rows}
    plan = config.plan
    return Lineage(
        settings=changed_settings(config),
        recipe_known=config.name in RECIPES,
        parent=None if plan.parent is None else known.get(plan.parent),
        champion=None if plan.champion is None else known.get(plan.champion),
        serving=ledger.champion,
        ledger=list(ledger.rows[: -MAX_ROWS - 1 : -1]),
    )


def changed_settings(config: RunConfig) -> list[Setting]:
    """Settings of a run that are not those of its recipe as it is now."""
    if config.name not in RECIPES:
        return []
    fields = set(Recipe.model_fields)
    recipe = RECIPES[config.name]().model_dump(mode="json", include=fields)
    run = config.model_dump(mode="json", include=fields)
    return list(_differences("", recipe, run))


def _differences(prefix: str, recipe: Any, run: Any) -> Iterator[Setting]:
    if isinstance(recipe, Mapping) and isinstance(run, Mapping):
        for key in dict.fromkeys([*recipe, *run]):
            name = f"{prefix}.{key}" if prefix else key
            yield from _differences(name, recipe.get(key), run.get(key))
    elif recipe != run:
        yield Setting(prefix, json.dumps(recipe), json.dumps(run))
