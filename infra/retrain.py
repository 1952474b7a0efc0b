"""Retrain days here and now: the DAG's own tasks, one after another, told in a few lines."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from infra.airflow_home import AIRFLOW, LocalError, environment, prepare
from infra.stack import keep_pid, running, services
from jobs.config import REPOSITORY, Recipe, day_of, lapidary_home, parse_day
from jobs.recipes import named_recipe

_START = re.compile(r"\[DAG TEST\] starting task_id=(\S+)")
_STATE = re.compile(r" new_state=(\w+)")
_END = "[DAG TEST] end task"
_JOB = re.compile(r"^\S+ \[\w+ *\] (.*?) *\[airflow\.task\.operators\.lapidary\]")
_REFUSED = re.compile(r"^airflow\.sdk\.exceptions\.\w+: (.+)")
_OPTION = re.compile(r" --(config|student) (\S+)")
_TOLD = re.compile(r"\d\d:\d\d:\d\d ")
"""How a job's own lines start; what its libraries print stays in the log."""
_STOP_SECONDS = 5


def retrain(recipe: str, days: list[str]) -> None:
    """Retrain days, in order, and print what each run's report says.

    Args:
        recipe: Name of the recipe.
        days: Days, YYYY-MM-DD; the last two of the log if empty.

    Raises:
        LocalError: A run failed; later days are not begun.
        ConfigError: No such recipe or day.
    """
    settings = named_recipe(recipe)
    chosen = [parse_day(day, "--day") for day in days] or default_days(settings)
    for day in chosen:
        _require_log(settings, day)
    if any(running(name) for name in services()):
        raise LocalError(
            "The stack is up and shares its Airflow home; make down first, or trigger there: "
            f"""airflow dags trigger daily_retrain --conf '{{"day": "{chosen[0]}"}}'"""
        )
    if running("retrain"):
        raise LocalError("make retrain is at work already on the same Airflow home.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    logs = lapidary_home() / "logs"
    prepare(logs / "prepare.log")
    runs = [_retrain_day(recipe, day, logs / f"retrain-{day}.log") for day in chosen]
    for day, run in zip(chosen, runs, strict=True):
        _print_summary(day, run)


def default_days(recipe: Recipe) -> list[date]:
    """The last two complete days of a log: the first bootstraps, the second challenges it."""
    contract = recipe.contract
    yesterday = day_of(datetime.now(UTC), contract.time_zone) - timedelta(days=1)
    last = contract.last_day or yesterday
    return [last - timedelta(days=1), last]


class Progress:
    """What the terminal shows of a run, read from its log line by line."""

    def __init__(self) -> None:
        self.task = ""
        self.state = ""
        self.refused = ""
        self.failed: tuple[str, list[str]] | None = None
        """The task that failed last, and the end of its lines."""
        self.run: Path | None = None
        """The run's folder, once known."""
        self._label = ""
        self._titled = False
        self._runs_job = False
        self._started = 0.0
        self._lines: deque[str] = deque(maxlen=20)

    def read(self, line: str) -> None:
        """Take in one line of the log."""
        if match := _START.search(line):
            self.task = self._label = match[1]
            self.state, self.refused = "", ""
            self._started = time.monotonic()
            self._titled = self._runs_job = False
            self._lines.clear()
        elif match := _JOB.match(line):
            self._job_line(match[1])
        elif match := _STATE.search(line):
            self.state = match[1]
        elif match := _REFUSED.match(line):
            self.refused = match[1]
        elif "[DAG TEST] running trigger in line" in line:
            print(f"  {self.task}: waiting for the day's log", flush=True)
        elif _END in line:
            self._end()

    def _job_line(self, line: str) -> None:
        if line.startswith("$ "):
            self._runs_job = True
            options = dict(_OPTION.findall(line))
            self._label = f"{self.task} {options.get('student', '')}".rstrip()
            if "config" in options:
                self.run = Path(options["config"]).parent
            return
        self._lines.append(line)
        if _TOLD.match(line):
            if not self._titled:
                print(f"  {self._label}", flush=True)
                self._titled = True
            print(f"      {line}", flush=True)

    def _end(self) -> None:
        seconds = time.monotonic() - self._started
        if self.state in ("failed", "up_for_retry"):
            self.failed = (self._label, [*self._lines, self.refused])
        elif self.state == "success" and not self._runs_job:
            return  # A helper of the graph.
        title = "    " if self._titled else self._label
        print(f"  {title:<44} {self.state or 'no state':<12} {seconds:7.1f} s", flush=True)


def _retrain_day(recipe: str, day: date, log: Path) -> Path:
    """Run one day.

    Returns:
        The run's folder.

    Raises:
        LocalError: It failed.
    """
    conf = json.dumps({"day": day.isoformat(), "recipe": recipe})
    print(f"{day}, recipe {recipe}; the full log: {log}", flush=True)
    progress, started = Progress(), time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [*AIRFLOW, "dags", "test", "daily_retrain", "--conf", conf],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=REPOSITORY,
        env=environment(recipe),
        start_new_session=True,
    )
    keep_pid("retrain", process.pid)
    assert process.stdout is not None
    try:
        with log.open("wb") as out:
            for raw in process.stdout:
                out.write(raw)
                out.flush()
                progress.read(raw.decode(errors="replace").rstrip())
        code = process.wait()
    finally:
        _stop(process)
    run = progress.run
    if code or run is None:
        if run is not None:
            _print_summary(day, run)
        task, lines = progress.failed or ("the log", _tail(log))
        print(f"\nThe last lines of {task}:", *filter(None, lines), sep="\n    ", file=sys.stderr)
        raise LocalError(f"The run of {day} failed; its full log: {log}")
    print(f"  {'all tasks':<44} {'success':<12} {time.monotonic() - started:7.1f} s", flush=True)
    return run


def _print_summary(day: date, run: Path) -> None:
    summary = run / "summary.txt"
    text = summary.read_text(encoding="utf-8").rstrip() if summary.is_file() else "no report"
    print(f"\n{day}\n{text}", flush=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the run and its jobs, where it has not ended by itself."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    # Jobs end; Airflow takes the signal for its task alone and would go on.
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-15:]


def _require_log(recipe: Recipe, day: date) -> None:
    """A run started by hand does not wait for its day."""
    feed = recipe.contract.impressions
    path = Path(recipe.log_uri) / (feed.ready or feed.path).format(day=day.isoformat())
    if "://" not in recipe.log_uri and not path.exists():
        raise LocalError(f"The log has no {day}: {path} is not there; deliver it, or choose a day.")
