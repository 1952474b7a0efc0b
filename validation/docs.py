"""The pages of Data Docs: Great Expectations builds the site, these classes draw it.

Its own pages fetch styles, scripts and a logo from other hosts. Without them the index is empty and
pass and failure look alike; with them those hosts learn when somebody looks. These pages stand
alone, and they show what a reviewer needs: the verdict, every check with its limit and the figure
found, and the frame itself. A result carries its frame, so any page can be drawn again.

Great Expectations finds the classes through the site's configuration in `validation.gates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.frames import PARTS, Columns
from validation.results import check_result, limit

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
    )
    from jinja2 import Environment

Page = dict[str, Any]
"""What a template shows, and the template's name under `template`."""


@dataclass(frozen=True)
class Title:
    """A suite's name, taken apart and as a reviewer reads it."""

    suite: str

    @property
    def words(self) -> tuple[str, str, str]:
        """Number, gate and part."""
        number, gate, part = self.suite.split("-", 2)
        return number, gate, part

    @property
    def columns(self) -> Columns:
        """The contract of the part's frame; empty for a gate that is not ours."""
        return PARTS.get(self.words[1], {}).get(self.words[2], {})

    def __str__(self) -> str:
        number, gate, part = self.words
        return f"Gate {number} · {gate} · {part}"


class ResultRenderer:
    """The page of one gate part in one run."""

    def render(self, result: ExpectationSuiteValidationResult) -> Page:
        """Lay out the checks and the frame of a validation result."""
        title = Title(result.suite_name)
        metas: dict[str, Mapping[str, Any]] = {
            config.meta["check"]: config.meta
            for r in result.results
            if (config := r.expectation_config) is not None and config.meta
        }
        checks = [check_result(title.words[2], r) for r in result.results]
        checks.sort(key=lambda check: metas[check.check]["order"])
        shown = metas[checks[0].check]
        run: Any = result.meta["run_id"]
        if not isinstance(run, Mapping):
            run = run.to_json_dict()
        return {
            "template": "result.html.j2",
            "home": "../../../../",
            "title": title,
            "run_name": run["run_name"],
            "time": _time(run["run_time"]),
            "passed": result.success,
            "checks": checks,
            "failed": [check for check in checks if not check.passed],
            "disabled": shown["disabled"],
            "rows": shown["rows"],
            "columns": title.columns or {name: "" for row in shown["rows"][:1] for name in row},
        }


class SuiteRenderer:
    """The page of what a gate part demands."""

    def render(self, suite: ExpectationSuite) -> Page:
        """Lay out the checks of a suite."""
        title = Title(suite.name)
        checks = sorted(suite.expectations, key=lambda check: (check.meta or {})["order"])
        return {
            "template": "suite.html.j2",
            "home": "../",
            "title": title,
            "columns": title.columns,
            "checks": [
                {
                    "check": (check.meta or {})["check"],
                    "description": check.description,
                    "limit": limit(check.expectation_type, check.configuration.kwargs),
                }
                for check in checks
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
        suites = sorted({suite for tries in runs.values() for suite in tries}, key=_reading_order)
        return {
            "template": "index.html.j2",
            "home": "",
            "titles": [Title(suite) for suite in suites],
            "runs": [
                {
                    "name": name,
                    "time": _time(max(links[0]["run_time"] for links in tries.values())),
                    "cells": [tries.get(suite, []) for suite in suites],
                }
                for name, tries in runs.items()
            ],
        }


class PageView:
    """Fills the templates."""

    def render(self, page: Page, **_: Any) -> str:
        """The page as HTML."""
        return _environment().get_template(page["template"]).render(page)


def _reading_order(suite: str) -> tuple[int, int, str]:
    """Gates by number, parts as their gate lists them."""
    number, gate, part = Title(suite).words
    parts = list(PARTS.get(gate, {}))
    return int(number), parts.index(part) if part in parts else len(parts), part


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
