"""Ratios are of runs of the same round, and arms that differ are not compared."""

import numpy as np
import pytest

from tests.bench import harness
from tests.bench.ratios import ratio


def test_a_ratio_is_the_median_over_rounds_whatever_the_rounds_took():
    theirs = np.array([1.0, 10.0, 2.0, 40.0, 5.0])
    found = ratio(theirs * [1.5, 1.4, 1.6, 1.5, 1.5], theirs)
    assert found.median == 1.5
    assert 1.4 <= found.low <= 1.5 <= found.high <= 1.6


def test_a_slope_is_the_power_with_which_time_grows():
    assert harness.slope([1, 2, 4], [3, 6, 12]) == 1.0
    assert harness.slope([1, 2, 4], [3, 12, 48]) == 2.0


def test_arms_that_made_other_rows_are_not_timed():
    harness.require_equal({"ours": "x", "theirs": "x"})
    with pytest.raises(ValueError, match="arms that differ are not compared"):
        harness.require_equal({"ours": "x", "theirs": "y"})
