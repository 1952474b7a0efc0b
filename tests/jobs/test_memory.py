"""Peak memory counts what a job and its children hold together."""

import json
import subprocess
import sys

from jobs.config import REPOSITORY

SIZE = 100 * 2**20
_HOLD = f"block = bytearray(b'x' * {SIZE}); print('held', flush=True); input()"
_WATCH = f"""
import json, subprocess, sys, time
from jobs.memory import PeakMemory, memory_of_tree

before = memory_of_tree()
with PeakMemory() as memory:
    child = subprocess.Popen(
        [sys.executable, "-c", {_HOLD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    time.sleep(1.2)
    child.communicate(b"\\n")
print(json.dumps([before, memory.num_bytes, memory_of_tree()]))
"""


def test_peak_counts_the_memory_of_a_child_that_has_ended():
    # A process of its own: beside other tests' Spark, which grows as it likes, nothing can be told.
    told = subprocess.run(
        [sys.executable, "-c", _WATCH], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    before, peak, after = json.loads(told.stdout)
    assert peak >= before + 0.9 * SIZE
    assert after < before + 0.5 * SIZE
