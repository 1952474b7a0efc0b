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


def mlp_num_parameters(widths: Sequence[int]) -> int:
    """Parameters of an `MLP`: sum of (in + 1) · out."""
    return sum((width_in + 1) * width_out for width_in, width_out in pairwise(widths))


def mlp_flops(widths: Sequence[int]) -> int:
    """Forward FLOPs of an `MLP` for one row: sum of 2 · in · out, biases not counted."""
    return sum(2 * width_in * width_out for width_in, width_out in pairwise(widths))
