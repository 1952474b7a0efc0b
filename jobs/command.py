"""What every job's command has in common: arguments, exit codes, and the summary it leaves.

A job prints one JSON line on stdout, its summary, and writes the same to `summaries/` in the run's
folder. Everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.config import RunConfig, load_config
from jobs.errors import ConfigError, GateFailed, PromotionConflict
from jobs.memory import PeakMemory

log = logging.getLogger("lapidary")


@dataclass(frozen=True)
class JobSummary:
    """What a job read, wrote and took."""

    job: str
    inputs: dict[str, int | None] = field(default_factory=dict)
    """Table versions read."""
    outputs: dict[str, int | None] = field(default_factory=dict)
    """Table versions after the job."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows by table or set."""
    details: dict[str, Any] = field(default_factory=dict)
    mlflow_run: str | None = None
    part: str | None = None
    """Which student, where a job runs once per student."""
    started: float = 0.0
    """Unix seconds."""
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    """Of the job's process and everything it started, together: see `jobs.memory`."""


def read_summaries(config: RunConfig) -> list[JobSummary]:
    """Summaries of the jobs that have run, by their start."""
    folder = config.run_folder / "summaries"
    found = [JobSummary(**json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda s: s.started)


def read_summary(config: RunConfig, job: str) -> JobSummary:
    """Summary of a job that has run; its outputs are the versions that later jobs read.

    Raises:
        ConfigError: The job has not run, or has failed.
    """
    path = config.run_folder / "summaries" / f"{job}.json"
    if not path.is_file():
        raise ConfigError(f"{job} has not run in {config.run.run_id}; run jobs.{job} first")
    summary = JobSummary(**json.loads(path.read_text(encoding="utf-8")))
    if "failed" in summary.details:
        raise ConfigError(
            f"{job} has failed in {config.run.run_id} ({summary.details['failed']}); "
            f"run jobs.{job} again"
        )
    return summary


def run_job(config: RunConfig, run: Callable[..., JobSummary], **arguments: Any) -> JobSummary:
    """Run a job and keep its summary.

    Args:
        config: The run's configuration.
        run: The job's `run`.
        arguments: Further arguments of `run`.

    Returns:
        The summary, with times and memory. A job that fails leaves one too, with its error.
    """
    started, memory = time.time(), PeakMemory()
    try:
        with memory:
            summary = run(config, **arguments)
    except Exception as error:
        failed = JobSummary(
            job=_job_name(run),
            part=arguments.get("student"),
            details={"failed": f"{type(error).__name__}: {error}"},
        )
        _keep(config, failed, started, memory)
        raise
    return _keep(config, summary, started, memory)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(_to_json(value, indent=1), encoding="utf-8")
    partial.replace(path)


def main(run: Callable[..., JobSummary], doc: str | None, *names: str) -> None:
    """Parse `--config` and the named options, run the job, exit.

    Args:
        run: `run(config, **options) -> JobSummary`.
        doc: The job's docstring, shown by `--help`.
        names: Further required options, such as `student`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="URI of the run's config.json")
    for name in names:
        parser.add_argument(f"--{name}", required=True, help=f"name of the {name}")
    options = vars(parser.parse_args())

    def body() -> dict[str, Any]:
        config = load_config(options.pop("config"))
        return asdict(run_job(config, run, **options))

    exit_with(body)


def exit_with(body: Callable[[], dict[str, Any]]) -> None:
    """Run a command's body, print its result as the last line of stdout, and exit.

    Exit codes: 0 done, 2 bad configuration or input, 3 a gate failed, 4 promotion conflict; any
    other error is a crash with its traceback and code 1.
    """
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    log.setLevel(logging.INFO)
    try:
        result = body()
    except (ConfigError, GateFailed, PromotionConflict) as error:
        print(f"lapidary: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    print(_to_json(result), flush=True)
    sys.exit(0)


def _job_name(run: Callable[..., JobSummary]) -> str:
    """The job's module; as a command it is called `__main__`, and its spec knows its name."""
    name = run.__module__
    spec = sys.modules["__main__"].__spec__
    if name == "__main__" and spec is not None:
        name = spec.name
    return name.removeprefix("jobs.")


def _to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: what is undefined (NaN) or infinite is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(value), indent=indent, default=str, allow_nan=False)


def _keep(config: RunConfig, summary: JobSummary, started: float, memory: PeakMemory) -> JobSummary:
    kept = replace(
        summary,
        started=started,
        seconds=round(time.time() - started, 2),
        peak_memory_bytes=memory.num_bytes,
    )
    name = kept.job if kept.part is None else f"{kept.job}-{kept.part}"
    write_json(config.run_folder / "summaries" / f"{name}.json", asdict(kept))
    return kept
