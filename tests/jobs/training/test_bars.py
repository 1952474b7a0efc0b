"""A bar in a terminal, and nothing anywhere else."""

import os
import pty
import subprocess
import sys
import termios

from jobs.config import REPOSITORY
from jobs.training.bars import Steps, drawn, read_steps

_TRAINING = """
import sys, time
from pathlib import Path
from jobs.training.bars import Steps, drawn
run, seen = map(Path, sys.argv[1:])
with drawn(run):
    ours, theirs = Steps(run, "ours", 40), Steps(run, "theirs", 20, 10)
    for _ in range(10):
        ours.advance()
    theirs.advance()
    for _ in range(600):
        time.sleep(0.1)
        if seen.exists():
            break
"""


def test_without_a_terminal_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with drawn(tmp_path):
        Steps(tmp_path, "teacher", 3).advance()
    assert list(tmp_path.iterdir()) == []


def test_steps_of_all_that_learns_add_up(tmp_path):
    (tmp_path / "progress").mkdir()
    first, second = Steps(tmp_path, "teacher", 30), Steps(tmp_path, "student", 20, done=5)
    for steps in (first, first, second):
        steps.advance()
    assert read_steps(tmp_path / "progress") == (["student", "teacher"], 8, 50)
    (tmp_path / "progress" / "torn@1").write_text("7")
    assert read_steps(tmp_path / "progress") == (["student", "teacher"], 8, 50)


def test_a_terminal_shows_how_far_they_are_and_keeps_no_file(tmp_path):
    run, seen = tmp_path / "run", tmp_path / "seen"
    run.mkdir()
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 100))
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINING, str(run), str(seen)],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        cwd=REPOSITORY,
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                more = os.read(controller, 4096)
            except OSError:  # What Linux says at the end of a terminal.
                break
            if not more:
                break
            shown += more
            if b"21/60" in shown:
                seen.touch()
    os.close(controller)
    assert process.returncode == 0
    assert b"ours, theirs" in shown
    assert b"21/60" in shown
    assert list(run.iterdir()) == []
