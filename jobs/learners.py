"""Which registered models have learnt a label, as their windows of training say.

A run learns every label that matured after its parent's `trained_until` and by its own. What a
version inherits from its parent's weights is not counted: the parent is named for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobs import tracking
from jobs.config import Recipe
from jobs.contract import LogContract
from jobs.family import domain_name, teacher_name, vertical_name

STALE_TAG = "stale_labels"


@dataclass(frozen=True)
class Reach:
    """Which labels a model is taught."""

    surfaces: frozenset[str]
    tasks: frozenset[str]


@dataclass(frozen=True)
class Learner:
    """A registered version and its window of training."""

    name: str
    version: str
    run_id: str
    """MLflow run of the model."""
    stage: str
    """`judged` or `final`."""
    trained_from: datetime | None
    """UTC; None where training began with the log, or where an older version does not say."""
    trained_until: datetime
    stale: str | None
    """What repairs have changed of what it had learnt."""

    def learnt(self, mature_ts: datetime) -> bool:
        """Whether a label that matured then was in the window."""
        begun = self.trained_from is None or mature_ts > self.trained_from
        return begun and mature_ts <= self.trained_until


def reaches(recipe: Recipe) -> dict[str, Reach]:
    """What each model of a family is taught, by registered name."""
    contract = recipe.contract
    every = frozenset(contract.tasks)
    found = {teacher_name(recipe): Reach(frozenset(contract.surface_vertical), every)}
    for domain, settings in contract.domains.items():
        inside = _surfaces(contract, domain)
        found[domain_name(recipe, domain)] = Reach(frozenset(inside), every)
        for vertical in settings.verticals:
            surfaces = frozenset(s for s, of in inside.items() if of == vertical)
            tasks = frozenset(contract.vertical_tasks(domain, vertical))
            found[vertical_name(recipe, f"{domain}-{vertical}")] = Reach(surfaces, tasks)
    return found


def learners(recipe: Recipe, home: str) -> list[Learner]:
    """Every registered version of a family that says until when it was trained, oldest first."""
    client = tracking.registry(recipe, home)
    if client is None:
        return []
    found: list[Learner] = []
    for name in reaches(recipe):
        for version in client.search_model_versions(f"name = '{name}'", max_results=10_000):
            tags = version.tags
            if tags.get("trained_until", "None") == "None":
                continue
            begun = tags.get("trained_from", "None")
            found.append(
                Learner(
                    name=name,
                    version=str(version.version),
                    run_id=str(version.run_id),
                    stage=str(tags.get("stage")),
                    trained_from=None if begun == "None" else datetime.fromisoformat(begun),
                    trained_until=datetime.fromisoformat(tags["trained_until"]),
                    stale=tags.get(STALE_TAG),
                )
            )
    return sorted(found, key=lambda one: (one.trained_until, one.name, int(one.version)))


def mark_stale(recipe: Recipe, home: str, notes: Mapping[tuple[str, str], str]) -> None:
    """Tag versions with what repairs have changed of what they had learnt.

    Args:
        recipe: Whose family.
        home: Root of all state.
        notes: What to say, by name and version.
    """
    client = tracking.registry(recipe, home)
    assert client is not None or not notes, "a version that learnt something is registered"
    for (name, version), note in notes.items():
        assert client is not None
        client.set_model_version_tag(name, version, STALE_TAG, note)


def stale_notes(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """What to say of each version that some repair made stale.

    Args:
        rows: The ledger of repairs.
    """
    counted: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        for model in row["stale"] or []:
            days = counted.setdefault((model["name"], model["version"]), {})
            day = row["day"].isoformat()
            days[day] = days.get(day, 0) + model["num_labels"]
    return {
        key: f"{sum(days.values())} labels since changed, of impressions of {', '.join(days)}"
        for key, days in counted.items()
    }


def _surfaces(contract: LogContract, domain: str) -> dict[str, str]:
    """Vertical by surface, of one domain."""
    return {s: v for s, (d, v) in contract.surface_vertical.items() if d == domain}
