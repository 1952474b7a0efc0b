"""Calls in processes of their own."""

import os
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from jobs.config import REPOSITORY, Resources
from jobs.errors import ConfigError
from jobs.training.side_by_side import side_by_side

TWO = Resources(job_processes=2)


def told(value):
    return value, os.getpid()


def refuse():
    raise ConfigError("x: found 1; choose 2")


def test_answers_come_in_the_order_of_the_calls_from_other_processes():
    found = side_by_side([partial(told, value) for value in range(5)], TWO)
    assert [value for value, _ in found] == list(range(5))
    assert os.getpid() not in {pid for _, pid in found}


def test_what_is_not_sent_is_inherited():
    unsendable = lambda: 7  # noqa: E731
    assert side_by_side([unsendable, unsendable], TWO) == [7, 7]


@pytest.mark.parametrize(
    "resources", [Resources(job_processes=1), Resources(job_processes=2, device="cuda")]
)
def test_one_process_and_a_gpu_keep_all_here(resources):
    found = side_by_side([partial(told, value) for value in range(2)], resources)
    assert found == [(0, os.getpid()), (1, os.getpid())]


def test_an_error_of_a_call_comes_back_as_it_is():
    with pytest.raises(ConfigError, match="choose 2"):
        side_by_side([partial(told, 0), refuse], TWO)


def test_a_killed_process_is_an_error():
    with pytest.raises(Exception, match="terminated abruptly"):
        side_by_side([partial(os._exit, 9), partial(told, 1)], TWO)


def test_a_killed_job_leaves_no_process_behind(tmp_path):
    script = f"""
import os, time
from functools import partial
from pathlib import Path
from jobs.config import Resources
from jobs.training.side_by_side import side_by_side

def wait(name):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(600)

side_by_side([partial(wait, 0), partial(wait, 1)], Resources(job_processes=2))
"""
    job = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY)
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        job.kill()
        job.wait()
    left = [int(path.name) for path in tmp_path.iterdir()]
    wait_until(lambda: not any(is_alive(pid) for pid in left))


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)
