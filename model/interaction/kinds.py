"""From the configuration of an interaction stack to its module and its closed-form costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from model.interaction import dcnv2, dlrm, logistic, mlp, rankmixer, wukong
from model.interaction.config import CrossLayerConfig, Interaction


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


def single_layers(config: Interaction) -> list[Interaction]:
    """The stack cut into stacks of one layer each, so that something may stand between them.

    A stack without layers of one shape is a single one. Its connections across layers, which
    `cross_layer` gives, are left to whoever puts the layers together.
    """
    if config.kind == "wukong":
        one = config.model_copy(update={"num_layers": 1, "cross_layer": None})
        return [one] * config.num_layers
    if config.kind == "dcnv2":
        return [config.model_copy(update={"num_cross_layers": 1})] * config.num_cross_layers
    if config.kind == "rankmixer":
        return [config.model_copy(update={"num_layers": 1})] * config.num_layers
    return [config]


def cross_layer(config: Interaction) -> CrossLayerConfig | None:
    """The connections across the layers of a stack; None without any."""
    return config.cross_layer if config.kind == "wukong" else None


def num_parameters(config: Interaction, num_tokens: int, width: int) -> int:
    """Parameters of the stack, in closed form."""
    return _KINDS[config.kind].num_parameters(config, num_tokens, width)


def flops(config: Interaction, num_tokens: int, width: int) -> int:
    """Forward FLOPs of the stack for one row, in closed form."""
    return _KINDS[config.kind].flops(config, num_tokens, width)
