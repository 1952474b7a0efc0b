"""The pages of Data Docs: Great Expectations builds the site, these classes draw it.

Its own pages fetch styles, scripts and a logo from other hosts. Without them the index is empty and
pass and failure look alike; with them those hosts learn when somebody looks. These pages stand
alone, and they show what a reviewer needs: the verdict, every check with its limit and the figure
found, and the frame itself. A result carries its frame, so any page can be drawn again.

Great Expectations finds the classes through the site's configuration in `validation.gates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.frames import PARTS, Columns
from validation.results import limit, part_results

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
    )
    from jinja2 import Environment

Page = dict[str, Any]
"""What a template shows, and the template's name under `template`."""


class Title:
    """A suite's name `<number>-<gate>-<part>`, as a reviewer reads it."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        number, self.gate, self.part = suite.split("-", 2)
        self.number = int(number)
        self.columns: Columns = PARTS.get(self.gate, {}).get(self.part, {})

    @property
    def heading(self) -> str:
        """The gate with its number."""
        return f"Gate {self.number} · {self.gate}"

    @property
    def reading_order(self) -> tuple[int, int]:
        """Gates by number, parts as their contract lists them."""
        parts = list(PARTS.get(self.gate, {}))
        return self.number, parts.index(self.part) if self.part in parts else len(parts)

    def __str__(self) -> str:
        return f"{self.heading} · {self.part}"


class ResultRenderer:
    """The page of one gate part in one run."""

    def render(self, result: ExpectationSuiteValidationResult) -> Page:
        """Lay out the checks and the frame of a validation result."""
        title = Title(result.suite_name)
        shown = next(
            config.meta
            for check in result.results
            if (config := check.expectation_config) and config.meta and "frame" in config.meta
        )
        checks = part_results(title.gate, title.part, shown["declared"], result)
        names = shown["frame"]["columns"]
        run: Any = result.meta["run_id"]
        if not isinstance(run, Mapping):
            run = run.to_json_dict()
        return {
            "template": "result.html.j2",
            "home": "../../../../",
            "title": title,
            "run_name": run["run_name"],
            "time": _time(run["run_time"]),
            "passed": all(check.passed for check in checks),
            "checks": checks,
            "failed": [check for check in checks if not check.passed],
            "disabled": shown["disabled"],
            "figures": [_folded(names, values) for values in shown["frame"]["data"]],
            "columns": title.columns,
        }


class SuiteRenderer:
    """The page of what a gate part demands."""

    def render(self, suite: ExpectationSuite) -> Page:
        """Lay out the checks of a suite."""
        title = Title(suite.name)
        checks = {(check.meta or {})["check"]: check for check in suite.expectations}
        declared = next(
            meta["declared"]
            for check in checks.values()
            if "declared" in (meta := check.meta or {})
        )
        return {
            "template": "suite.html.j2",
            "home": "../",
            "title": title,
            "columns": title.columns,
            "checks": [
                {
                    "check": name,
                    "description": checks[name].description or "",
                    "limit": limit(
                        checks[name].expectation_type, checks[name].configuration.kwargs
                    ),
                }
                for name in declared
            ],
        }


class IndexRenderer:
    """The first page: one line per run, one cell per gate part."""

    def render(self, links: Mapping[str, Any]) -> Page:
        """Lay out the newest results, the newest run first."""
        runs: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        for link in links.get("validations_links", []):
            tries = runs.setdefault(link["run_name"], {})
            tries.setdefault(link["expectation_suite_name"], []).append(link)
        suites = {suite for tries in runs.values() for suite in tries}
        titles = sorted(map(Title, suites), key=lambda title: (title.reading_order, title.suite))
        return {
            "template": "index.html.j2",
            "home": "",
            "gates": [
                (heading, [title for title in titles if title.heading == heading])
                for heading in dict.fromkeys(title.heading for title in titles)
            ],
            "runs": [
                {
                    "name": name,
                    "time": _time(max(links[0]["run_time"] for links in tries.values())),
                    "cells": [tries.get(title.suite, []) for title in titles],
                }
                for name, tries in runs.items()
            ],
        }


class PageView:
    """Fills the templates."""

    def render(self, page: Page, **_: Any) -> str:
        """The page as HTML."""
        return _environment().get_template(page["template"]).render(page)


def _folded(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """A row for people: an interval stands beside its figure, not in two columns of its own."""
    row, folded = dict(zip(names, values, strict=True)), {}
    for name, value in row.items():
        stem = name.removesuffix("_value")
        if f"{stem}_low" in row and f"{stem}_high" in row:
            folded[stem] = (value, row[f"{stem}_low"], row[f"{stem}_high"])
        elif name.removesuffix("_low").removesuffix("_high") not in folded:
            folded[name] = value
    return folded


def _time(moment: datetime | str) -> str:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
