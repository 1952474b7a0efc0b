"""Deep Interest Network: a history, summed with weights that the candidate gives.

Paper: DIN (arXiv 1706.06978), sections 4.3 and 5.3.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from model.mlp import mlp_flops, mlp_num_parameters
from model.sequence.config import DinConfig

EPSILON = 1e-8
"""Keeps Dice finite where an input does not vary (the paper's)."""
MOMENTUM = 0.01
"""Share of a batch in the moving averages of Dice."""


class Dice(nn.Module):
    """An activation that bends where the data lies.

    f(s) = p(s) s + (1 − p(s)) α s,  p(s) = σ((s − E[s]) / √(Var[s] + ε))

    Paper: DIN, section 5.3; mean and variance are the batch's in training, moving averages after.
    Differs: events, not rows, are averaged over; with fewer than two it is the moving averages too.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, inputs: Float[Tensor, "E width"]) -> Float[Tensor, "E width"]:
        mean, variance = self.mean, self.variance
        if self.training and len(inputs) > 1:
            # In the precision of the averages, whatever autocast made of the inputs.
            inputs = inputs.to(self.mean.dtype)
            mean, variance = inputs.mean(0), inputs.var(0, unbiased=False)
            self.mean.lerp_(mean.detach(), MOMENTUM)
            self.variance.lerp_(variance.detach(), MOMENTUM)
        gate = torch.sigmoid((inputs - mean) / (variance + EPSILON).sqrt())
        return gate * inputs + (1.0 - gate) * self.alpha * inputs


class ActivationUnit(nn.Module):
    """Weighs an event by the candidate; the weights of a history are not normalised.

    a(e, v) = MLP([e; v; e − v; e ⊙ v])

    Paper: DIN, section 4.3, figure 2.
    Differs: difference and elementwise product stand for the figure's outer product, as in the
        authors' later code.
    """

    def __init__(self, config: DinConfig, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(_widths(config, width)[:-1]):
            activation = Dice(width_out) if config.activation == "dice" else nn.PReLU(width_out)
            layers += [nn.Linear(width_in, width_out), activation]
        self.mlp = nn.Sequential(*layers, nn.Linear(config.hidden[-1], 1))

    def forward(
        self, events: Float[Tensor, "E D"], target: Float[Tensor, "E D"]
    ) -> Float[Tensor, "E 1"]:
        return self.mlp(torch.cat([events, target, events - target, events * target], dim=1))


class DeepInterest(nn.Module):
    """The user's interest in the candidate.

    v_U(A) = Σ_j a(e_j, v_A) e_j,  zero for an empty history

    Paper: DIN, section 4.3, equation 3.
    Differs: none beyond the activation unit.
    """

    def __init__(self, config: DinConfig, width: int) -> None:
        super().__init__()
        self.unit = ActivationUnit(config, width)

    def forward(
        self,
        target: Float[Tensor, "B D"],
        events: Float[Tensor, "E D"],
        times: Int64[Tensor, " E"],
        offsets: Int64[Tensor, " B+1"],
    ) -> Float[Tensor, "B D"]:
        """Sums each row's events.

        Args:
            target: The candidate (v_A).
            events: Events of all rows.
            times: Not read: the paper's weights know no time.
            offsets: First event of each row and, last, the total.
        """
        row = torch.arange(len(target), device=events.device).repeat_interleave(
            offsets.diff(), output_size=len(events)
        )
        weighted = self.unit(events, target.index_select(0, row)) * events
        return weighted.new_zeros(target.shape).index_add(0, row, weighted)


def num_parameters(config: DinConfig, width: int) -> int:
    """Parameters of a `DeepInterest`: its MLP, and one slope per hidden unit."""
    return mlp_num_parameters(_widths(config, width)) + sum(config.hidden)


def flops(config: DinConfig, width: int, num_events: float) -> float:
    """Forward FLOPs of a `DeepInterest` for a row of so many events: its MLP for each of them."""
    return num_events * mlp_flops(_widths(config, width))


def _widths(config: DinConfig, width: int) -> tuple[int, ...]:
    return (4 * width, *config.hidden, 1)
