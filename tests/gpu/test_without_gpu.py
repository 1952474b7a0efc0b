"""What can be said of the tests of CUDA without it: they are light, and no device is forgotten."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.named_networks import NETWORKS
from model.ranker import Ranker
from tests.gpu import samples

REPOSITORY = Path(__file__).parents[2]
FORBIDDEN = (
    "airflow",
    "beartype",
    "deltalake",
    "duckdb",
    "great_expectations",
    "hypothesis",
    "matplotlib",
    "mlflow",
    "pandas",
    "pyarrow",
    "pyspark",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "yaml",
)
"""Everything of ours that is not torch, NumPy, pytest, pydantic, jaxtyping or needed by these."""
WITHOUT = """
import sys
from importlib.machinery import PathFinder


class Rest(PathFinder):
    @classmethod
    def find_spec(cls, name, *more):
        return None if name.partition(".")[0] in {forbidden} else PathFinder.find_spec(name, *more)


sys.meta_path[:] = [Rest if finder is PathFinder else finder for finder in sys.meta_path]
"""
RUN_TESTS = """
import pytest
# That networks learn is tested elsewhere; one of them is enough to test the test.
some = "not learns or dlrm"
sys.exit(pytest.main(["-m", "gpu", "-k", some, "-p", "no:cacheprovider", "tests/gpu"]))
"""
RUN_BENCH = """
from tests.bench import bench_attention
bench_attention.main(["--seconds=0", "--users=3", "--longest=24", "--heads=1"])
"""


def run_without_platforms(code):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(forbidden=set(FORBIDDEN)) + code],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "GPU_TESTS_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_they_run_where_no_platform_is_installed():
    done = run_without_platforms(RUN_TESTS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 25, done.stdout[-1000:]


def test_platforms_are_really_hidden():
    done = run_without_platforms("import numpy\nimport pyarrow")
    assert "No module named 'pyarrow'" in done.stderr


def test_the_bench_of_attention_runs_where_no_platform_is_installed():
    done = run_without_platforms(RUN_BENCH)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_all_that_a_network_makes_lies_where_its_inputs_do(name):
    config = samples.shape(name)
    model, rows, targets = Ranker(config), samples.batch(config), samples.labels()
    # What is made without saying where lies on another device now, and meets the rest in an error.
    with torch.device("meta"):
        output = model(rows).logits
        again = model(rows.map(lambda x: x.clone())).logits
    assert output.device.type == again.device.type == "cpu"
    torch.nn.functional.binary_cross_entropy_with_logits(output, targets).backward()
