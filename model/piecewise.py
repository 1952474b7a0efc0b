"""Dense columns as places within pieces of their range, so that a line can bend.

Paper: Gorishniy et al. 2022, On Embeddings for Numerical Features (arXiv 2203.05556), section 3.2.
"""

import torch
from jaxtyping import Float32
from torch import Tensor, nn


class PiecewiseLinear(nn.Module):
    """How far a value has come through each of the T pieces of its column's range.

    e_t = clip((x − b_{t−1}) / (b_t − b_{t−1}), 0, 1) for t = 1 … T; b_0, …, b_T are quantiles of
    the column at 0, 1/T, …, 1. A piece between equal quantiles is a step: 1 from b_t on. A missing
    value (NaN) has come through none.

    Paper: arXiv 2203.05556, section 3.2 (piecewise linear encoding, bins at quantiles).
    Differs: the outermost pieces end at the least and greatest value that were seen; the columns
        stand beside their pieces (`FeatureTokens`).
    """

    edges: Tensor
    """b, one column after the other: (N, T + 1)."""

    def __init__(self, num_columns: int, num_pieces: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(0, 1, num_pieces + 1).repeat(num_columns, 1))

    @torch.no_grad()
    def fit(self, columns: Float32[Tensor, "B N"]) -> None:
        """Takes the quantiles of each column, missing values left out.

        A column without any value keeps pieces of equal width from 0 to 1.
        """
        levels = torch.linspace(0, 1, self.edges.shape[1], device=columns.device)
        for column, values in enumerate(columns.T):
            if len(seen := values[~values.isnan()]):
                self.edges[column] = torch.quantile(seen, levels)

    def forward(self, columns: Float32[Tensor, "B N"]) -> Float32[Tensor, "B NT"]:
        """Places, column by column."""
        start, end = self.edges[:, :-1], self.edges[:, 1:]
        come = columns.unsqueeze(2) - start
        # Where both ends are equal the quotient is 0/0 or ±∞; a step says the same.
        share = torch.where(end > start, come / (end - start), (come >= 0).float())
        return share.clamp(0.0, 1.0).nan_to_num(0.0).flatten(1)
