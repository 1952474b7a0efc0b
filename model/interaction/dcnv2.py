"""DCN-V2: explicit crosses of growing order beside, or below, a deep network.

Paper: DCN-V2 (arXiv 2008.13535), section 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.interaction.config import DcnV2Config
from model.mlp import HiddenLayers, hidden_num_parameters, mlp_flops


class CrossNetwork(nn.Module):
    """Every layer multiplies its input, seen through a full matrix, with the first input.

    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l

    Paper: DCN-V2, section 3.2.
    Differs: none.

    Args:
        num_layers: Cross layers.
        input_dim: Width of x_0.
    """

    def __init__(self, num_layers: int, input_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(input_dim, input_dim) for _ in range(num_layers))

    def forward(self, inputs: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        outputs = inputs
        for layer in self.layers:
            outputs = inputs * layer(outputs) + outputs
        return outputs


class DcnV2(nn.Module):
    """Cross network and deep network.

    x_0 = flatten(X)
    X_out = reshape([cross(x_0); deep(x_0)])  parallel,  or reshape(deep(cross(x_0)))  stacked

    Paper: DCN-V2, sections 3.2 to 3.4.
    Differs: the deep network's last hidden layer is read as tokens; the output layer is
        `model.heads`. The mixture of low-rank matrices is left out.
    """

    def __init__(self, config: DcnV2Config, num_tokens: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.is_parallel = config.structure == "parallel"
        self.cross = CrossNetwork(config.num_cross_layers, num_tokens * width)
        self.deep = HiddenLayers(
            (num_tokens * width, *config.deep_hidden), config.dropout, config.batch_norm
        )

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        inputs = tokens.flatten(1)
        crossed = self.cross(inputs)
        deep = self.deep(inputs if self.is_parallel else crossed)
        outputs = torch.cat([crossed, deep], dim=1) if self.is_parallel else deep
        return outputs.unflatten(1, (-1, self.width))


def num_parameters(config: DcnV2Config, num_tokens: int, width: int) -> int:
    """Parameters of a `DcnV2`, in closed form: L_c (nd + 1) nd and the deep network's."""
    inputs = num_tokens * width
    cross = config.num_cross_layers * (inputs + 1) * inputs
    return cross + hidden_num_parameters((inputs, *config.deep_hidden), config.batch_norm)


def flops(config: DcnV2Config, num_tokens: int, width: int) -> int:
    """Forward FLOPs of a `DcnV2` for one row; a multiply-add counts 2, the ⊙ is left out."""
    inputs = num_tokens * width
    cross = config.num_cross_layers * 2 * inputs * inputs
    return cross + mlp_flops((inputs, *config.deep_hidden))
