"""Days of a world are cut as they should be, and what is learnt is learnt once, in order."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from jobs.scaling import sizes
from jobs.scaling.stream import FIELDS
from model import metrics
from model.ranker import Ranker
from tests.bench.worlds import Days, constant_excess, learn, open_days, steps, tell


@pytest.fixture(scope="module")
def days() -> Days:
    return open_days("world-1", 4)


def test_the_last_day_is_judged_and_the_one_before_it_tuned_on(days):
    assert [len(part) for part in (days.learnt, days.tuned, days.judged)] == [2_000, 1_000, 1_000]
    whole = np.concatenate([days.learnt, days.tuned, days.judged])
    assert np.array_equal(whole, np.arange(len(days.stream.users)))
    day = days.stream.row_us.numpy() // 86_400_000_000
    assert len(np.unique(day[days.judged])) == 1
    assert day[days.tuned].max() < day[days.judged].min()


def test_some_rows_take_as_many_steps_as_all_and_each_is_learnt_once():
    rows = np.arange(1_000)
    some = rows[rows % 3 == 0]
    cut = steps(some, 64)
    assert len(cut) == len(steps(rows, 64)) == 16
    assert np.array_equal(np.concatenate(cut), some)


def test_rows_that_are_learnt_are_told_better_and_no_other_labels_count(days):
    stream = days.stream
    config = sizes.ranker_config("wukong", 0, FIELDS, stream.table_rows, stream.num_domains)
    read = partial(stream.batch, num_events=8)

    def told(labels: torch.Tensor) -> np.ndarray:
        ranker = Ranker(config, 0)
        learn(replace(stream, labels=labels), ranker, days.learnt, (4e-3, 0.1), read, 64)
        return tell(ranker, days.judged, read)

    labels = torch.from_numpy(stream.p_star).float()
    p = told(labels)
    p_star = stream.p_star[days.judged]
    assert metrics.excess_ne(p_star, p) < constant_excess(p_star)
    labels[days.tuned[0] :] = 1.0
    assert np.array_equal(told(labels), p)
