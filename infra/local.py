"""The whole system on one machine: checks, retraining by hand, and the servers to look at.

    python -m infra.local check
    python -m infra.local retrain --day 2022-05-04
    python -m infra.local up --log simulated
    python -m infra.local down
    eval "$(python -m infra.local env)"

Everything is kept below `LAPIDARY_HOME` (default `var/`) and listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = (3, 11)
JAVA = 17
JAVA_MODULE = "jdk.incubator.vector"
EXTRA_DAYS = 2
"""Days simulated beyond what a first run reads: room for a second and a third run."""


def what_is_missing() -> str | None:
    """What this machine lacks, in one sentence that says what to install; None if nothing."""
    if sys.version_info[:2] != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return (
            f"Lapidary needs Python {wanted}, found {sys.version.split()[0]} ({sys.executable}); "
            f"install Python {wanted} and run make setup."
        )
    remedy = "install a Java runtime from 17 on, such as openjdk-17-jre-headless, or set JAVA_HOME."
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).is_file():
        return f"Lapidary needs Java {JAVA} or newer for Spark, found none; {remedy}"
    listed = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False)
    base = re.search(r"^java\.base@(\d+)", listed.stdout, re.MULTILINE)
    if base is None or int(base[1]) < JAVA:
        found = f"Java {base[1]}" if base else "an older one"
        return f"Lapidary needs Java {JAVA} or newer for Spark, found {found} ({java}); {remedy}"
    if f"{JAVA_MODULE}@" not in listed.stdout:
        return f"Lapidary needs Java's module {JAVA_MODULE}, which {java} lacks; {remedy}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit code: 0 done, 1 failed, 2 something to install or mend first.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="say what is missing on this machine")
    again = verbs.add_parser("retrain", help="retrain days, here and now")
    again.add_argument("--day", nargs="*", default=[], help="YYYY-MM-DD; the log's last two days")
    again.add_argument("--recipe", help="name of the recipe; kuairand")
    start = verbs.add_parser("up", help="start Airflow and MLflow")
    start.add_argument("--log", help="recipe of scheduled runs; `simulated` also makes its log")
    verbs.add_parser("down", help="stop them")
    env = verbs.add_parser("env", help="print what a shell needs to use them")
    env.add_argument("--log", help="as given to `up`")
    options = parser.parse_args(arguments)

    missing = None if options.verb in ("down", "env") else what_is_missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 2
    if options.verb == "check":
        print("Python and Java are here.")
        return 0
    return _use_stores(options)


def _use_stores(options: argparse.Namespace) -> int:
    from infra.airflow_home import LocalError
    from jobs.errors import ConfigError

    try:
        if options.verb == "retrain":
            from infra.retrain import retrain

            default = os.environ.get("LAPIDARY_RECIPE", "kuairand")
            retrain(options.recipe or default, options.day)
        elif options.verb == "up":
            _up(options.log)
        elif options.verb == "down":
            from infra.stack import down

            down()
        else:
            _print_env(options.log)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _up(log: str | None) -> None:
    from infra.airflow_home import run_logged
    from infra.stack import require_room, stack_folder, up
    from jobs.recipes import named_recipe

    recipe = named_recipe(log) if log else None
    require_room(log)
    if recipe is not None and recipe.name == "simulated":
        days = recipe.windows.bootstrap_days + EXTRA_DAYS
        print(f"Simulating {days} days up to yesterday …", flush=True)
        command = ["-m", "jobs.simulate_log", "--out", recipe.log_uri, "--days", str(days)]
        run_logged([sys.executable, *command], stack_folder() / "simulate_log.log")
    up(log, unpause=log == "simulated")
    if log == "simulated":
        print("daily_retrain is unpaused: its scheduled run of yesterday starts now.")


def _print_env(log: str | None) -> None:
    from infra.airflow_home import settings

    for name, value in settings(log).items():
        print(f"export {name}={shlex.quote(value)}")
    print(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')


if __name__ == "__main__":
    sys.exit(main())
