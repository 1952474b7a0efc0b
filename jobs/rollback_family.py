"""Make the champion's predecessor the champion again, the whole family at once.

Reads and appends to the ledger of promotions; the registry's aliases follow.

    python -m jobs.rollback_family --recipe kuairand --reason "calibration drifted"
"""

from __future__ import annotations

import argparse
import getpass
from typing import Any

from jobs.command import exit_with
from jobs.config import lapidary_home
from jobs.promotions import read_ledger, rollback
from jobs.recipes import named_recipe
from jobs.tracking import project_aliases


def run(recipe: str, reason: str) -> dict[str, Any]:
    """Roll back the family of a recipe's contract."""
    settings = named_recipe(recipe)
    home = str(lapidary_home())
    uri = f"{home}/tables/{settings.contract.name}/promotions"
    row = rollback(uri, getpass.getuser(), reason)
    project_aliases(settings, home, read_ledger(uri))
    return {
        "job": "rollback_family",
        "promotion": row.number,
        "day": row.day,
        "versions": {name: member.version for name, member in row.members.items()},
    }


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="kuairand", help="name of the recipe")
    parser.add_argument("--reason", required=True, help="why, for the ledger")
    options = parser.parse_args()
    exit_with(lambda: run(options.recipe, options.reason))


if __name__ == "__main__":
    _main()
