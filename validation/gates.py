"""Run one gate: hold a few small frames against their checks with Great Expectations.

The verdict comes from the results of Great Expectations alone, and fails closed. It would pass an
empty suite, a range over an empty or all-null frame and a suite that lost a check on the way. So
every part starts with a check for rows that nobody can switch off, missing figures have checks of
their own, and the statistics of the result are held against what was declared.

Every gate part has a suite, a validation definition and a checkpoint `<number>-<gate>-<part>` in
the file context under `folder`; its page in Data Docs is drawn by `validation/docs.py`.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import pandas as pd
from pandas.api import types

from validation import suites
from validation.frames import checked
from validation.results import CheckResult, GateResult, part_results, plain, reason, refusal

if TYPE_CHECKING:
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.data_context.data_context.file_data_context import FileDataContext
    from great_expectations.expectations.expectation import Expectation

Part = tuple[pd.DataFrame | None, Sequence["Expectation"]]
"""A frame, None where its job failed to make one, and the checks that it is held against."""

MAX_RESULTS = 200
"""Newest results that the index of Data Docs lists, some twenty runs; older pages stay."""

_VIEW = {"module_name": "validation.docs", "class_name": "PageView"}
_SITE: Any = {
    "class_name": "SiteBuilder",
    "show_how_to_buttons": False,
    "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": "docs"},
    "site_index_builder": {
        "class_name": "DefaultSiteIndexBuilder",
        "validation_results_limit": MAX_RESULTS,
        "renderer": {"module_name": "validation.docs", "class_name": "IndexRenderer"},
        "view": _VIEW,
    },
    "site_section_builders": {
        "expectations": {
            "renderer": {"module_name": "validation.docs", "class_name": "SuiteRenderer"},
            "view": _VIEW,
        },
        "validations": {
            "renderer": {"module_name": "validation.docs", "class_name": "ResultRenderer"},
            "view": _VIEW,
            "run_name_filter": {"matches_regex": "."},
        },
        "profiling": "None",
    },
}


def paired(
    gate: str, suite: Mapping[str, Sequence[Expectation]], frames: Mapping[str, pd.DataFrame]
) -> dict[str, Part]:
    """Put the frames of a gate beside their checks; a part without a frame fails the gate.

    Args:
        gate: Name of the gate.
        suite: Checks of every part, from `validation.suites`.
        frames: Part name to frame.

    Raises:
        ValueError: A frame belongs to no part, or breaks its contract.
    """
    unknown = sorted(set(frames) - set(suite))
    if unknown:
        raise ValueError(f"{gate}.{unknown[0]}: no such part; found only {', '.join(suite)}")
    return {
        part: (checked(gate, part, frames[part]) if part in frames else None, checks)
        for part, checks in suite.items()
    }


def run_gate(
    name: str,
    number: int,
    parts: Mapping[str, Part],
    *,
    folder: str | Path,
    run_id: str,
    disabled: Sequence[str] = (),
) -> GateResult:
    """Judge the parts of a gate and write their pages.

    A repeat with the same run id replaces suites and definitions and adds new pages.

    Args:
        name: The gate's name.
        number: The gate's number.
        parts: Part name to frame and checks.
        folder: Folder of the Great Expectations context, created if there is none.
        run_id: Names the run in Data Docs.
        disabled: Names of checks to leave out, or patterns of them (`teacher.slices.*`); those
            that guard against judging nothing stay on.

    Returns:
        The verdict, with every check's result in the order of the suite.

    Raises:
        ValueError: A check without a name, two of one name, or an unusable run id.
    """
    if not run_id.strip() or "/" in run_id:
        raise ValueError(f"run_id: names a folder, so neither empty nor with a /; found {run_id!r}")
    results: list[CheckResult] = []
    pages: dict[str, str] = {}
    left_out: list[str] = []
    started = datetime.now(UTC)
    with _context(Path(folder).resolve()) as context:
        for part, (frame, checks) in parts.items():
            named = _named(f"{name}.{part}", checks)
            free = [check for check, e in named.items() if not (e.meta or {}).get("always")]
            off = [check for check in free if _matches(check, disabled)]
            left_out += off
            if not named:
                results.append(refusal(name, part, "declared", "The part has checks.", 0, "≥ 1"))
            elif len(off) < len(free):
                gate_part = _GatePart(context, name, number, part)
                kept = {check: named[check] for check in named if check not in off}
                found, pages[part] = gate_part.judge(frame, kept, off, run_id, started)
                results += found
    if not pages:
        rule = "The gate has a check that is switched on."
        results.append(refusal(name, "", "declared", rule, 0, "≥ 1"))
    failed = [result.part for result in results if not result.passed and result.part in pages]
    return GateResult(
        name=name,
        number=number,
        passed=all(result.passed for result in results),
        checks=results,
        page=pages[(failed or list(pages))[0]] if pages else None,
        reason=reason(name, number, results),
        disabled=left_out,
    )


class _GatePart:
    """One part of a gate in a context."""

    def __init__(self, context: FileDataContext, gate: str, number: int, part: str) -> None:
        self._context = context
        self._gate = gate
        self._part = part
        self._name = f"{number}-{gate}-{part}"

    def judge(
        self,
        frame: pd.DataFrame | None,
        checks: Mapping[str, Expectation],
        left_out: Sequence[str],
        run_id: str,
        started: datetime,
    ) -> tuple[list[CheckResult], str]:
        """Validate a frame; returns the results in the order of the checks, and the page."""
        from great_expectations.core.run_identifier import RunIdentifier

        if frame is None:
            frame, checks = pd.DataFrame(), {}
        frame = _without_infinities(frame.reset_index(drop=True))
        declared = self._declared(frame, checks, left_out)
        outcome = self._checkpoint(frame, list(declared.values())).run(
            batch_parameters={"dataframe": frame},
            run_id=RunIdentifier(run_name=run_id, run_time=started),
        )
        ((key, validation),) = outcome.run_results.items()
        results = part_results(self._gate, self._part, list(declared), validation)
        (site,) = self._context.get_docs_sites_urls(resource_identifier=key, site_name="local")
        assert site["site_url"], f"Data Docs has no page of {self._name}"
        return results, unquote(urlparse(site["site_url"]).path)

    def _declared(
        self, frame: pd.DataFrame, checks: Mapping[str, Expectation], left_out: Sequence[str]
    ) -> dict[str, Expectation]:
        """The checks as fresh copies, after one for rows that also carries what the page shows."""
        first = f"{self._gate}.{self._part}.present"
        all_checks = {first: suites.present(first), **checks}
        metas: dict[str, dict[str, Any]] = {
            name: {**(check.meta or {}), "found": _found(frame, check)}
            for name, check in all_checks.items()
        }
        table = {"columns": list(frame.columns), "data": frame.to_numpy(object).tolist()}
        metas[first] |= {
            "frame": plain(table),
            "declared": list(all_checks),
            "disabled": list(left_out),
        }
        return {
            name: check.copy(update={"id": None, "meta": metas[name]})
            for name, check in all_checks.items()
        }

    def _checkpoint(self, frame: pd.DataFrame, expectations: list[Expectation]) -> Any:
        """Write suite, validation definition and checkpoint, in place of earlier ones."""
        import great_expectations as gx
        from great_expectations.checkpoint.actions import UpdateDataDocsAction

        suite = self._context.suites.add_or_update(
            gx.ExpectationSuite(name=self._name, expectations=expectations)
        )
        definition = self._context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=self._name, data=self._batch(), suite=suite)
        )
        names_and_counts = [str(c) for c in frame if not types.is_float_dtype(frame[c])]
        return self._context.checkpoints.add_or_update(
            gx.Checkpoint(
                name=self._name,
                validation_definitions=[definition],
                actions=[UpdateDataDocsAction(name="docs", site_names=["local"])],
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": names_and_counts,
                },
            )
        )

    def _batch(self) -> BatchDefinition:
        """The whole frame as a batch; the data source keeps the assets of other parts."""
        sources = self._context.data_sources
        source: Any = (
            sources.get("frames") if "frames" in sources.all() else sources.add_pandas("frames")
        )
        if self._name not in source.get_asset_names():
            source.add_dataframe_asset(self._name).add_batch_definition_whole_dataframe("all")
        return source.get_asset(self._name).get_batch_definition("all")


def _without_infinities(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with NaN for every infinite figure, so that checks for missing figures see it."""
    figures = frame.select_dtypes("float")
    return frame.assign(**figures.replace([math.inf, -math.inf], math.nan).to_dict("series"))


def _found(frame: pd.DataFrame, check: Any) -> Any:
    """What a range check will meet: the figure nearest to its limit or farthest beyond it.

    For the reader only; Great Expectations reports nothing but the values that fail.
    """
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine

    column, condition = getattr(check, "column", None), getattr(check, "row_condition", None)
    low, high = getattr(check, "min_value", None), getattr(check, "max_value", None)
    numeric = column in frame and types.is_numeric_dtype(frame[column])
    if not numeric or (low is None and high is None):
        return None
    try:
        clause = PandasExecutionEngine().condition_to_filter_clause(condition) if condition else ""
        values = (frame.query(clause) if clause else frame)[column].dropna()
    except NameError:
        return None  # the condition names no column; the check itself reports that
    if values.empty:
        return "no such row"
    least, most = plain(values.min()), plain(values.max())
    if low is None or high is None or least == most:
        return least if high is None else most
    return f"{least:.6g} to {most:.6g}"


def _named(prefix: str, checks: Sequence[Expectation]) -> dict[str, Expectation]:
    named: dict[str, Expectation] = {}
    for check in checks:
        name = (check.meta or {}).get("check")
        if not name or name in named:
            raise ValueError(
                f'{prefix}: every check has a name of its own in meta["check"]; '
                f"found {name!r} on {type(check).__name__}"
            )
        named[name] = check
    return named


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def _context(folder: Path) -> Iterator[FileDataContext]:
    """The file context in a folder, silent, with our pages as its only site.

    One gate at a time may hold it: Great Expectations rewrites its files as a whole.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        context = gx.get_context(mode="file", context_root_dir=folder)
        context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
        sites = context.variables.data_docs_sites or {}
        if "local_site" in sites:
            context.delete_data_docs_site("local_site")
        if "local" not in sites:
            context.add_data_docs_site("local", _SITE)
        elif json.dumps(sites["local"], sort_keys=True) != json.dumps(_SITE, sort_keys=True):
            context.update_data_docs_site("local", _SITE)
        yield context
