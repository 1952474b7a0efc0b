"""Labels of the interaction-order bench have the order they claim, and its arms differ in depth."""

from __future__ import annotations

import json
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from model.interaction.wukong import Wukong
from model.ranker import Ranker, num_parameters
from tests.bench import bench_interaction_order as bench


@pytest.mark.parametrize("order", bench.ORDERS)
def test_interactions_are_pure(order):
    columns, p = bench.draw(np.random.default_rng(0), 200_000, order)
    interaction = np.log(p / (1 - p)) / bench.SCALE
    assert interaction.mean() == pytest.approx(0.0, abs=0.02)
    assert interaction.std() == pytest.approx(1.0, abs=0.02)
    vectors = columns.numpy().astype(np.float64).reshape(-1, bench.NUM_VECTORS, 2)
    pairs = combinations(range(order), 2) if order > 2 else []
    for one, other in pairs:
        product = (vectors[:, one] * vectors[:, other]).sum(axis=-1)
        assert np.corrcoef(product, interaction)[0, 1] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(("order", "num_layers"), [(2, 2), (4, 1), (4, 3), (8, 2)])
def test_arms_of_an_order_have_about_as_many_parameters(order, num_layers):
    wanted = num_parameters(bench.matched(order, order.bit_length() - 1))
    assert num_parameters(bench.matched(order, num_layers)) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_layers_without_norms_are_of_degree_two_to_their_number(num_layers):
    """The claim of the docstring; with the norms a layer is no polynomial at all."""
    torch.manual_seed(0)
    wukong = Wukong(bench.stack(num_layers, 4), 8, 8).double()  # pyright: ignore[reportArgumentType]
    with_norms = _degree_residual(wukong, 2**num_layers)
    bench.ablate(wukong, bench.NORMS)
    assert _degree_residual(wukong, 2**num_layers) < 1e-8
    assert _degree_residual(wukong, 2**num_layers - 1) > 1e-6
    assert with_norms > 1e-4


def _degree_residual(wukong: Wukong, degree: int) -> float:
    """How far the outputs along a ray are from the best polynomial of a degree, relatively."""
    at = np.linspace(-1.0, 1.0, 4 * degree + 4)
    ray = torch.from_numpy(at)[:, None, None] * torch.randn(
        8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        found = wukong(ray).flatten(1).numpy()
    basis = np.polynomial.chebyshev.chebvander(at, degree)
    fitted = basis @ np.linalg.lstsq(basis, found, rcond=None)[0]
    return float(np.abs(fitted - found).max() / np.abs(found).max())


@pytest.mark.parametrize("part", bench.PARTS)
def test_an_ablated_part_has_no_say_in_the_output(part):
    columns, _ = bench.draw(np.random.default_rng(0), 16, 4)
    ranker = Ranker(bench.matched(4, 2), 0)
    ranker.fit_normalisers(columns)
    whole = ranker(bench.batch_of(columns)).logits
    bench.ablate(ranker.interaction, part)
    without = ranker(bench.batch_of(columns)).logits
    without.sum().backward()
    assert not torch.equal(whole, without)
    gradients = [
        parameter.grad
        for name, parameter in ranker.named_parameters()
        if f".{part}." in name and parameter.grad is not None
    ]
    assert all(not gradient.any() for gradient in gradients)


def test_cells_that_are_there_are_not_run_again_and_the_rest_waits_for_a_budget(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bench, "NUM_STEPS", 2)
    monkeypatch.setattr(bench, "NUM_TEST_ROWS", 100)
    keys = bench.cells()[:3]
    monkeypatch.setattr(bench, "cells", lambda: keys)
    path = tmp_path / "cells.jsonl"
    monkeypatch.setattr(sys, "argv", ["bench", "--cells", str(path)])
    bench.main()
    once = path.read_text()
    assert [
        json.loads(line).items() >= key.items()
        for line, key in zip(once.splitlines(), keys, strict=True)
    ] == [True] * 3
    bench.main()
    assert path.read_text() == once
    path.unlink()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["bench", "--cells", str(path), "--budget", "0"])
    bench.main()
    assert capsys.readouterr().out.count("not run") == 3
