"""Places of values within pieces of their column's range."""

import pytest
import torch

from model import features
from model.features import FeatureTokens
from model.piecewise import PiecewiseLinear
from model.ranker import Ranker
from tests.model.samples import make_batch, ranker_config

NAN = float("nan")


def fitted(columns, num_pieces):
    pieces = PiecewiseLinear(columns.shape[1], num_pieces)
    pieces.fit(columns)
    return pieces


def test_places_equal_the_loop_over_pieces():
    torch.manual_seed(0)
    columns = torch.randn(200, 3)
    pieces = fitted(columns, 4)
    given = torch.randn(20, 3) * 2
    expected = torch.empty(20, 3, 4)
    for n in range(3):
        edges = [columns[:, n].quantile(t / 4).item() for t in range(5)]
        for b in range(20):
            for t in range(4):
                share = (given[b, n].item() - edges[t]) / (edges[t + 1] - edges[t])
                expected[b, n, t] = min(max(share, 0.0), 1.0)
    torch.testing.assert_close(pieces(given), expected.flatten(1))


def test_a_piece_between_equal_quantiles_is_a_step():
    zeros = torch.cat([torch.zeros(80, 1), torch.ones(20, 1)])
    pieces = fitted(zeros, 4)
    assert pieces.edges.tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0]]
    found = pieces(torch.tensor([[-1.0], [0.0], [0.5], [2.0]]))
    assert found.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0.5], [1, 1, 1, 1]]


def test_missing_values_count_for_no_quantile_and_have_come_through_nothing():
    columns = torch.tensor([[0.0, NAN], [NAN, NAN], [4.0, NAN]])
    pieces = fitted(columns, 2)
    assert pieces.edges.tolist() == [[0.0, 2.0, 4.0], [0.0, 0.5, 1.0]]
    assert pieces(torch.tensor([[NAN, NAN], [3.0, 0.25]])).tolist() == [
        [0.0, 0.0, 0.0, 0.0],
        [1.0, 0.5, 0.5, 0.0],
    ]


def test_a_line_over_pieces_bends_where_one_over_values_cannot():
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 200)[:, None]
    y = x.abs()
    ones = torch.ones(200, 1)

    def error(columns):
        design = torch.cat([columns, ones], dim=1)
        return (design @ torch.linalg.lstsq(design, y).solution - y).abs().max().item()

    assert error(x) > 0.4
    assert error(fitted(x, 8)(x)) < 0.01


def test_a_ranker_with_pieces_counts_them_and_fits_them_once():
    config = ranker_config(dense_pieces=5)
    ranker = Ranker(config, 0)
    module = ranker.feature_tokens
    assert features.num_parameters(config) == sum(p.numel() for p in module.parameters())
    batch = make_batch(config, (3, 0, 2))
    dense = torch.randn(50, config.num_dense)
    ranker.fit_normalisers(dense, batch.history.dense)
    torch.testing.assert_close(module.pieces.edges[:, 0], dense.min(0).values)
    with pytest.raises(ValueError, match="it is fitted once"):
        ranker.fit_normalisers(dense, batch.history.dense)
    missing = batch.dense.clone()
    missing[0] = NAN
    module(ranker.tables(config.fields, batch.categorical), missing).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_no_pieces_leave_the_tokens_as_they_were():
    config = ranker_config()
    assert config.dense_pieces == 0
    assert FeatureTokens(config).pieces is None
