"""The multi-layer perceptron that the blocks share, with its closed-form costs."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Linear layers with ReLU between them and none after the last.

    x_{i+1} = ReLU(W_i x_i + b_i), and the last layer without the ReLU.

    Paper: Wukong, section 3.1 (MLPs with ReLU).
    Differs: none.

    Args:
        widths: Input width, hidden widths, output width.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        super().__init__(*layers[:-1])


class HiddenLayers(nn.Sequential):
    """Linear layers, each with ReLU.

    x_{i+1} = dropout(ReLU(W_i x_i + b_i)),  or with BN(W_i x_i + b_i); no dropout after the last

    Paper: none.
    Differs: none.

    Args:
        widths: Input width, hidden widths.
        dropout: Share of a layer's outputs dropped in training.
        batch_norm: Whether a layer is normalised over the batch before the ReLU.
    """

    def __init__(self, widths: Sequence[int], dropout: float, batch_norm: bool) -> None:
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            if layers and dropout:
                layers.append(nn.Dropout(dropout))
            layers.append(nn.Linear(width_in, width_out))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width_out))
            layers.append(nn.ReLU())
        super().__init__(*layers)


def mlp_num_parameters(widths: Sequence[int]) -> int:
    """Parameters of an `MLP`: sum of (in + 1) · out."""
    return sum((width_in + 1) * width_out for width_in, width_out in pairwise(widths))


def hidden_num_parameters(widths: Sequence[int], batch_norm: bool) -> int:
    """Parameters of `HiddenLayers`: those of an `MLP`, and a scale and a shift per output."""
    return mlp_num_parameters(widths) + (2 * sum(widths[1:]) if batch_norm else 0)


def mlp_flops(widths: Sequence[int]) -> int:
    """Forward FLOPs of an `MLP` or `HiddenLayers` for one row: sum of 2 · in · out."""
    return sum(2 * width_in * width_out for width_in, width_out in pairwise(widths))
