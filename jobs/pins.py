"""Which table versions registered models were trained on: those are kept, or given up on purpose.

A pin is a direct input of training (examples, timelines, labels, vocabulary, scores): with it the
packed arrays, and so the model, can be made again. What those were made from is told by their
commits and is not kept.
"""

from __future__ import annotations

from jobs.config import Recipe
from jobs.errors import ConfigError
from jobs.promotions import read_ledger
from jobs.trained import Trained, trained_versions

Pins = dict[str, dict[int, list[Trained]]]
"""By table and version, the registered models that were trained on it."""


def read_pins(recipe: Recipe, home: str) -> Pins:
    """Pins of every registered version of a family.

    Raises:
        ConfigError: A version does not say what it was trained on, or the registry lacks one of the
            family that serves or of the one that a rollback would bring back.
    """
    trained = trained_versions(recipe, home)
    known = {(one.name, one.version) for one in trained}
    ledger = read_ledger(f"{home}/tables/{recipe.contract.name}/promotions")
    serving = ledger.champion
    before = None if serving is None or serving.previous is None else ledger.row(serving.previous)
    for row in filter(None, (serving, before)):
        for name, member in row.members.items():
            if (name, member.version) not in known:
                raise ConfigError(
                    f"promotions: family {row.number} names {name} version {member.version}, which "
                    "the registry lacks, so that nobody can tell which table versions it needs; "
                    "restore the registry first"
                )
    pins: Pins = {}
    for one in trained:
        for table, version in one.inputs.items():
            pins.setdefault(table, {}).setdefault(version, []).append(one)
    return pins
