"""Calls in processes of their own, and on threads of their own."""

import os
import subprocess
import sys
import threading
import time
from functools import partial

import psutil
import pytest
import torch

from jobs.config import REPOSITORY, Resources
from jobs.errors import ConfigError
from jobs.training.side_by_side import on_threads, side_by_side

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


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_infer_in_order_with_one_thread_of_torch_each(two_threads):
    meet = threading.Barrier(2, timeout=30)

    def look(number):
        meet.wait()  # Both are at work at the same time.
        return number, torch.is_inference_mode_enabled(), torch.get_num_threads()

    assert on_threads(look, range(6), "cpu") == [(n, True, 1) for n in range(6)]
    assert torch.get_num_threads() == 2
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("num_items", "device"), [(1, "cpu"), (3, "cuda")])
def test_one_item_and_a_gpu_stay_on_this_thread(two_threads, num_items, device):
    here = threading.get_ident()
    found = on_threads(
        lambda _: (threading.get_ident(), torch.get_num_threads()), range(num_items), device
    )
    assert found == [(here, 2)] * num_items


def test_an_error_on_a_thread_comes_back_and_leaves_the_threads_as_they_were(two_threads):
    def fail(number):
        raise ConfigError(f"x: found {number}; choose 2")

    with pytest.raises(ConfigError, match="found 0"):
        on_threads(fail, range(3), "cpu")
    assert torch.get_num_threads() == 2
