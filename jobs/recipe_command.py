"""Commands that take a recipe by its name, outside of any run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jobs.command import JobSummary, exit_with
from jobs.config import Recipe, lapidary_home, with_overrides
from jobs.recipes import named_recipe
from jobs.resolve_config import parse_overrides


def recipe_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser of `--recipe` and `--overrides`, to which a job adds its own options."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="kuairand", help="name of the recipe")
    parser.add_argument("--overrides", default="{}", help="JSON object of changed settings")
    return parser


def chosen_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of parsed options.

    Raises:
        ConfigError: There is no such recipe, or the overrides do not fit it.
    """
    return with_overrides(named_recipe(options.recipe), parse_overrides(options.overrides))


def recipe_main(
    parser: argparse.ArgumentParser,
    run: Callable[[Recipe, str, argparse.Namespace], JobSummary],
) -> None:
    """Parse the command line, run the job with the recipe and the home, exit.

    Args:
        parser: As `recipe_parser` made it, with the job's own options.
        run: `run(recipe, home, options) -> JobSummary`.
    """
    options = parser.parse_args()

    def body() -> dict[str, Any]:
        return asdict(run(chosen_recipe(options), str(lapidary_home()), options))

    exit_with(body)
