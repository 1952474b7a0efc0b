"""Scores under another sampling of negatives, against counting and by their inverse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.distillation.debias import convert_negative_sampling

RATIOS = st.floats(0.001, 1.0)


def test_conversion_equals_counting_the_rows_that_are_kept():
    # Of 1,000 rows 100 are positive; the teacher saw a tenth of the negatives, the student half.
    positives, negatives = 100.0, 900.0
    teacher = positives / (positives + 0.1 * negatives)
    student = positives / (positives + 0.5 * negatives)
    found = convert_negative_sampling(torch.tensor(teacher, dtype=torch.float64), 0.1, 0.5)
    assert found.item() == pytest.approx(student, rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(probability=st.floats(1e-6, 1 - 1e-6), ratio=RATIOS, wanted=RATIOS)
def test_there_and_back_is_the_same(probability, ratio, wanted):
    p = torch.tensor([probability], dtype=torch.float64)
    there = convert_negative_sampling(p, ratio, wanted)
    back = convert_negative_sampling(there, wanted, ratio)
    torch.testing.assert_close(back, p, rtol=1e-9, atol=0.0)


@settings(deadline=None, max_examples=25)
@given(probability=st.floats(1e-6, 1 - 1e-6), ratios=st.tuples(RATIOS, RATIOS, RATIOS))
def test_two_conversions_are_one(probability, ratios):
    p = torch.tensor([probability], dtype=torch.float64)
    first, second, third = ratios
    stepwise = convert_negative_sampling(convert_negative_sampling(p, first, second), second, third)
    torch.testing.assert_close(
        stepwise, convert_negative_sampling(p, first, third), rtol=1e-9, atol=0.0
    )


def test_missing_and_certain_scores_stay_as_they_are():
    p = torch.tensor([float("nan"), 0.0, 1.0])
    found = convert_negative_sampling(p, 0.1, 1.0)
    torch.testing.assert_close(found, p, equal_nan=True)
