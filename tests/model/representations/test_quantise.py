"""Stored numbers against plain integers, and how far off they may be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.representations.quantise import (
    dequantise,
    pack,
    packed_bytes,
    quantise,
    scaled,
    unpack,
)
from tests.reference import model_representations as reference

NUMBERS = st.floats(-1.0, 1.0, width=32)


@given(st.lists(NUMBERS, min_size=1, max_size=9), st.sampled_from([4, 8]))
def test_integers_and_their_bytes_equal_plain_arithmetic(numbers, bits):
    codes = quantise(torch.tensor([numbers]), bits)
    assert codes[0].tolist() == [reference.quantised(number, bits) for number in numbers]
    stored = pack(codes, bits)
    assert stored[0].tolist() == reference.packed(codes[0].tolist(), bits)
    assert stored.shape[1] == packed_bytes(len(numbers), bits)
    assert torch.equal(unpack(stored, bits, len(numbers)), codes)


@pytest.mark.parametrize(("bits", "inside", "top"), [(4, 1 / 16, 1 / 8), (8, 1 / 256, 1 / 128)])
def test_numbers_come_back_within_half_a_step_and_within_one_at_the_top(bits, inside, top):
    numbers = torch.linspace(-1, 1, 4001)[None]
    errors = (dequantise(quantise(numbers, bits), bits) - numbers).abs()
    assert errors[numbers <= 1 - top].max() <= inside + 1e-6
    assert errors.max() == pytest.approx(top)


def test_four_bits_are_sixteen_levels_from_minus_one_to_seven_eighths():
    codes = quantise(torch.linspace(-1.5, 1.5, 1001)[None], 4)
    assert codes.unique().tolist() == list(range(-8, 8))
    assert dequantise(codes, 4).aminmax() == (-1.0, 0.875)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="a stored number is finite; found 1 that are not"):
        quantise(torch.tensor([[0.0, bad]]), 8)


def test_bytes_of_another_width_are_refused():
    stored = pack(quantise(torch.zeros(2, 6), 4), 4)
    with pytest.raises(ValueError, match="8 numbers of 4 bits are 4 bytes; found 3"):
        unpack(stored, 4, 8)


def test_scaled_vectors_lie_between_minus_one_and_one_and_come_back():
    vectors = torch.tensor([[3.0, -6.0], [0.0, 0.0], [1e-3, 5e-4]])
    within, scale = scaled(vectors)
    assert scale.tolist() == pytest.approx([6.0, 1.0, 1e-3])
    torch.testing.assert_close(within * scale[:, None], vectors)
    assert within.abs().max() == 1.0
