"""The repository keeps its promises: recipes resolve, commands explain themselves, links work."""

import re
import subprocess
import sys

import pytest

from jobs.config import REPOSITORY
from jobs.recipes import RECIPES, named_recipe
from jobs.resolve_config import resolve

COMMANDS = sorted(
    f"jobs.{path.stem}"
    for path in (REPOSITORY / "jobs").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
EXPLAINED = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        assert not end.code, name
    print(name, len(text.getvalue().strip().splitlines()))
"""


def readme() -> str:
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_resolves_to_a_plan_of_its_last_day(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path))
    contract = named_recipe(name).contract
    config = resolve(name, {}, contract.last_day or contract.first_day, None, "test")
    assert config.contract == contract
    assert config.plan.parent is None


def test_every_command_explains_itself():
    done = subprocess.run(
        [sys.executable, "-c", EXPLAINED, *COMMANDS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = dict(line.split() for line in done.stdout.splitlines())
    assert sorted(told) == COMMANDS
    assert all(int(lines) > 3 for lines in told.values()), told


def test_readme_names_only_make_targets_that_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    blocks = re.findall(r"^```sh\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks), re.MULTILINE))
    assert named >= {"retrain", "test"}
    assert named <= targets


def test_readme_links_to_files_that_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", readme())
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
