"""Checkpoints: weights as safetensors, optimiser state, and a card that says what they are.

A folder is complete when its manifest is there; every file's hash is checked before it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jobs.errors import ConfigError
from model.config import DistillationConfig, RankerConfig
from model.embeddings import extend_tables
from model.optim import Optimizers, extend_optimizer_state
from model.ranker import Ranker, Student

_WEIGHTS = "model.safetensors"
_AVERAGES = "averages.safetensors"
_OPTIMIZER = "optimizer.pt"
_CARD = "card.json"
_MANIFEST = "manifest.json"
_FILES = (_WEIGHTS, _AVERAGES, _OPTIMIZER, _CARD)


@dataclass(frozen=True)
class Card:
    """What a checkpoint is."""

    name: str
    """Registered model name."""
    ranker: dict[str, Any]
    """`RankerConfig`."""
    categorical: list[str]
    """Categorical columns, in order."""
    dense: list[str]
    """Dense columns, in order."""
    vocabulary_version: int | None
    trained_until: str | None
    """ISO time, UTC: every label that was mature by then has been learnt."""
    trial: dict[str, Any]
    """Learning rates kept for the family's life."""
    warmup_steps: int
    """Steps of the first run over which the learning rates rose."""
    run_id: str
    distillation: dict[str, Any] | None = None
    """`DistillationConfig` of a student; None for a teacher or a twin."""
    parent: str | None = None
    """Folder that training started from."""
    num_steps: int = 0
    position: dict[str, int] = field(default_factory=dict)
    """Where a resumed pass goes on."""

    @property
    def ranker_config(self) -> RankerConfig:
        """The model's shape."""
        return RankerConfig.model_validate(self.ranker)

    @property
    def learnt_until(self) -> datetime | None:
        """`trained_until` as a time."""
        return None if self.trained_until is None else datetime.fromisoformat(self.trained_until)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    card: Card
    weights: dict[str, torch.Tensor]
    """Weights that training goes on from."""
    averages: dict[str, torch.Tensor]
    """Averaged dense weights, which are scored and served in place of those."""
    dense_state: dict[str, Any]
    sparse_state: dict[str, Any]


def build_model(card: Card, seed: int) -> Ranker | Student:
    """A fresh model of a card's shape."""
    if card.distillation is None:
        return Ranker(card.ranker_config, seed)
    distillation = DistillationConfig.model_validate(card.distillation)
    return Student(card.ranker_config, distillation, seed)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    averages: dict[str, torch.Tensor],
    optimizers: Optimizers,
    card: Card,
) -> None:
    """Write a checkpoint; a reader sees all of it or nothing.

    Args:
        folder: Where to; replaced if there.
        model: Its state dict is written.
        averages: Averaged dense weights.
        optimizers: Their state is written.
        card: What it is.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, partial / _WEIGHTS)
    save_file(averages, partial / _AVERAGES)
    state = {"dense": optimizers.dense.state_dict(), "sparse": optimizers.sparse.state_dict()}
    torch.save(state, partial / _OPTIMIZER)
    (partial / _CARD).write_text(json.dumps(asdict(card), indent=1), encoding="utf-8")
    hashes = {name: _file_hash(partial / name) for name in _FILES}
    (partial / _MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_card(folder: Path) -> Card:
    """The card of a checkpoint.

    Raises:
        ConfigError: As `load_checkpoint`.
    """
    _verify(folder, [_CARD])
    return Card(**json.loads((folder / _CARD).read_text(encoding="utf-8")))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ConfigError: It is incomplete, or a file is not the one that was written.
    """
    _verify(folder, _FILES)
    state = torch.load(folder / _OPTIMIZER, weights_only=True)
    return Checkpoint(
        read_card(folder),
        load_file(folder / _WEIGHTS),
        load_file(folder / _AVERAGES),
        state["dense"],
        state["sparse"],
    )


def load_model(folder: Path) -> Ranker | Student:
    """A checkpoint as a model ready to score: averaged dense weights, tables as they are."""
    checkpoint = load_checkpoint(folder)
    model = build_model(checkpoint.card, seed=0)
    model.load_state_dict({**checkpoint.weights, **checkpoint.averages})
    return model.eval()


def grown(checkpoint: Checkpoint, ranker: RankerConfig) -> Checkpoint:
    """A checkpoint with its tables grown to a newer vocabulary.

    A newly admitted row is a copy of its out-of-vocabulary row, with zero optimiser state.

    Raises:
        ConfigError: The checkpoint is of another shape, or its vocabulary is not an earlier one.
    """
    held = checkpoint.card.ranker_config
    same = held.model_copy(update={"tables": ranker.tables})
    if same != ranker:
        changed = [
            name
            for name in RankerConfig.model_fields
            if getattr(same, name) != getattr(ranker, name)
        ]
        raise ConfigError(
            f"{checkpoint.card.name}: the parent differs from this run's network in {changed}; "
            "restore the setting, or start a new family under another contract name"
        )
    try:
        weights = extend_tables(checkpoint.weights, ranker.tables)
        sparse = extend_optimizer_state(checkpoint.sparse_state, ranker.tables)
    except ValueError as error:
        raise ConfigError(f"{checkpoint.card.name}: {error}") from error
    card = replace(checkpoint.card, ranker=ranker.model_dump(mode="json"))
    return replace(checkpoint, card=card, weights=weights, sparse_state=sparse)


def weights_hash(folder: Path) -> str:
    """Hash of a checkpoint's weights, as served."""
    both = _file_hash(folder / _WEIGHTS) + _file_hash(folder / _AVERAGES)
    return hashlib.sha256(both.encode()).hexdigest()[:16]


def _verify(folder: Path, names: Sequence[str]) -> None:
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        raise ConfigError(f"checkpoint {folder}: no manifest; it is incomplete, train again")
    hashes = json.loads(manifest.read_text(encoding="utf-8"))
    for name in names:
        if not (folder / name).is_file() or _file_hash(folder / name) != hashes[name]:
            raise ConfigError(
                f"checkpoint {folder}: {name} is not the file that was written; "
                "restore it or train again"
            )


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
