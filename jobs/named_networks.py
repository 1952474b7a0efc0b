"""Named networks: the GEM teacher and the baselines that it is held against, each at a given size.

`NETWORKS` lists them. A recipe takes one as it takes any `Network`; all read the same features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from jobs.settings import Settings
from jobs.training_settings import LongSequence, Network
from model.interaction.config import (
    CrossLayerConfig,
    DcnV2Config,
    DlrmConfig,
    LogisticConfig,
    MlpConfig,
    RankMixerConfig,
    WukongConfig,
)
from model.sequence.config import DinConfig, HstuConfig
from model.sequence_config import InterFormerConfig


class Size(Settings):
    """What the networks have in common, so that they grow together."""

    width: int = Field(default=32, ge=4)
    """D; `num_heads` and `num_tokens` divide it."""
    table_dim: int = Field(default=16, ge=1)
    """Columns of every embedding table."""
    num_layers: int = Field(default=2, ge=2)
    """Layers of the interaction, stages of the upstream, and layers of HSTU."""
    num_tokens: int = Field(default=8, ge=1)
    """Tokens that each part of an interaction puts out; Wukong's rank, and tokens of RankMixer."""
    hidden: int = Field(default=128, ge=1)
    """Hidden width of every MLP except the heads'."""
    head_hidden: tuple[int, ...] = (64,)
    """Hidden widths of the heads; the logistic regression has none."""
    num_dense_tokens: int = Field(default=6, ge=1)
    """Tokens that the dense features become."""
    num_pieces: int = Field(default=8, ge=0)
    """Pieces of its range that each dense feature is read in; the logistic regression has none."""
    num_heads: int = Field(default=2, ge=1)
    """H of every attention; a head is of even width."""
    num_recent_events: int = Field(default=32, ge=1)
    """Latest events that InterFormer interleaves."""


def logistic(size: Size) -> Network:
    """Logistic regression over the row's own features (McMahan et al. 2013)."""
    linear = {"dense_hidden": None, "dense_pieces": 0, "head_hidden": ()}
    return _network(size, LogisticConfig(), num_events=0, **linear)


def dlrm(size: Size) -> Network:
    """DLRM (arXiv 1906.00091): dot products of all pairs beside the dense tokens; no history."""
    top = (size.hidden, size.num_tokens * size.width)
    stack = DlrmConfig(num_kept_tokens=size.num_dense_tokens, top_hidden=top)
    return _network(size, stack, num_events=0)


def dcnv2(size: Size) -> Network:
    """DCN-V2 (arXiv 2008.13535), cross and deep network in parallel; no history."""
    return _network(size, _dcnv2(size), num_events=0)


def din(size: Size) -> Network:
    """DIN (arXiv 1706.06978): interest in the candidate, then a deep network."""
    return _network(size, _deep(size), downstream=DinConfig(hidden=(size.hidden, size.hidden // 2)))


def wukong(size: Size) -> Network:
    """Wukong alone (arXiv 2403.02545); no history."""
    return _network(size, _wukong(size), num_events=0)


def interformer(size: Size) -> Network:
    """InterFormer around DCN-V2's layers, as its paper has it (arXiv 2411.09852)."""
    return _network(size, _dcnv2(size), interformer=_interleaving(size))


def hstu(size: Size) -> Network:
    """HSTU (arXiv 2402.17152) over events and candidate, then a deep network."""
    encoder = HstuConfig(
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        head_dim=size.width // size.num_heads,
    )
    return _network(size, _deep(size), downstream=encoder)


def rankmixer(size: Size) -> Network:
    """RankMixer (arXiv 2507.15551) over features and a history read by target attention."""
    stack = RankMixerConfig(
        num_layers=size.num_layers, num_mixed_tokens=size.num_tokens, expansion=2
    )
    return _network(size, stack)


def gem(size: Size) -> Network:
    """The GEM teacher: Wukong with cross-layer connections, upstream and InterFormer."""
    connections = CrossLayerConfig(num_tokens=size.num_tokens, num_heads=size.num_heads)
    return _network(
        size,
        _wukong(size).model_copy(update={"cross_layer": connections}),
        upstream=LongSequence(
            windows=(None, size.num_recent_events),
            num_stages=size.num_layers,
            ffn_hidden=size.hidden,
        ),
        interformer=_interleaving(size),
    )


NETWORKS: dict[str, Callable[[Size], Network]] = {
    named.__name__: named
    for named in (logistic, dlrm, dcnv2, din, wukong, interformer, hstu, rankmixer, gem)
}


def _network(size: Size, interaction: Any, **changes: Any) -> Network:
    values = {
        "width": size.width,
        "table_dim": size.table_dim,
        "num_dense_tokens": size.num_dense_tokens,
        "dense_hidden": size.hidden,
        "dense_pieces": size.num_pieces,
        "interaction": interaction,
        "head_hidden": size.head_hidden,
        "num_heads": size.num_heads,
    }
    return Network(**(values | changes))


def _dcnv2(size: Size) -> DcnV2Config:
    deep = (size.hidden, size.num_tokens * size.width)
    return DcnV2Config(num_cross_layers=size.num_layers, deep_hidden=deep)


def _deep(size: Size) -> MlpConfig:
    return MlpConfig(hidden=(size.hidden, size.num_tokens * size.width))


def _wukong(size: Size) -> WukongConfig:
    return WukongConfig(
        num_layers=size.num_layers,
        num_fm_tokens=size.num_tokens,
        num_lcb_tokens=size.num_tokens,
        rank=size.num_tokens,
        mlp_hidden=(size.hidden,),
    )


def _interleaving(size: Size) -> InterFormerConfig:
    return InterFormerConfig(max_events=size.num_recent_events)
