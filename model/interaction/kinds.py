"""From the configuration of an interaction stack to its module and its closed-form costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from model.interaction import dcnv2, dlrm, logistic, mlp, rankmixer, wukong
from model.interaction.config import Interaction


class _Kind(NamedTuple):
    """One stack; each function takes the config, the number of tokens (n) and their width (d)."""

    build: Callable[[Any, int, int], nn.Module]
    num_parameters: Callable[[Any, int, int], int]
    flops: Callable[[Any, int, int], int]


_KINDS = {
    "wukong": _Kind(wukong.Wukong, wukong.num_parameters, wukong.flops),
    "dcnv2": _Kind(dcnv2.DcnV2, dcnv2.num_parameters, dcnv2.flops),
    "dlrm": _Kind(dlrm.Dlrm, dlrm.num_parameters, dlrm.flops),
    "rankmixer": _Kind(rankmixer.RankMixer, rankmixer.num_parameters, rankmixer.flops),
    "mlp": _Kind(mlp.FlatMLP, mlp.num_parameters, mlp.flops),
    "logistic": _Kind(logistic.Logistic, logistic.num_parameters, logistic.flops),
}


def build_interaction(config: Interaction, num_tokens: int, width: int) -> nn.Module:
    """The stack of a configuration: B n D in, B m D out, m = `config.num_output_tokens(n, D)`."""
    return _KINDS[config.kind].build(config, num_tokens, width)


def num_parameters(config: Interaction, num_tokens: int, width: int) -> int:
    """Parameters of the stack, in closed form."""
    return _KINDS[config.kind].num_parameters(config, num_tokens, width)


def flops(config: Interaction, num_tokens: int, width: int) -> int:
    """Forward FLOPs of the stack for one row, in closed form."""
    return _KINDS[config.kind].flops(config, num_tokens, width)
