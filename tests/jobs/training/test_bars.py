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
with drawn(Path(sys.argv[1])):
    ours, theirs = Steps(Path(sys.argv[1]), "ours", 40), Steps(Path(sys.argv[1]), "theirs", 20, 10)
    for _ in range(10):
        ours.advance()
        time.sleep(0.3)
    theirs.advance()
    time.sleep(1.5)
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
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 100))
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINING, str(tmp_path)],
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
    os.close(controller)
    assert process.returncode == 0
    assert b"ours, theirs" in shown
    assert b"21/60" in shown
    assert list(tmp_path.iterdir()) == []
