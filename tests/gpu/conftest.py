"""What the tests of CUDA have in common.

They need torch, NumPy, pytest, pydantic and jaxtyping, and none of the platforms, so that a machine
with a GPU can run them as it is: `python -m pytest -m gpu tests/gpu`. With GPU_TESTS_DEVICE=cpu
they run without one, which checks the tests.
"""

import os

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """The device under test."""
    chosen = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; found none; GPU_TESTS_DEVICE=cpu checks the test itself")
    return chosen
