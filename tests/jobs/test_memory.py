"""Peak memory counts what a job and its children hold together."""

import subprocess
import sys
import time

from jobs.memory import PeakMemory, memory_of_tree

SIZE = 100 * 2**20
HOLD = f"block = bytearray(b'x' * {SIZE}); print('held', flush=True); input()"


def test_peak_counts_the_memory_of_a_child_that_has_ended():
    before = memory_of_tree()
    with PeakMemory() as memory:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(1.2)
        child.communicate(b"\n")
    assert memory.num_bytes >= before + 0.9 * SIZE
    assert memory_of_tree() < before + 0.5 * SIZE
