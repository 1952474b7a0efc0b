"""Checkpoints: weights and optimiser state as safetensors, and a card that says what they are.

A folder is complete when its manifest is there; every file's hash is checked before it is read.
Nothing in it is pickled.
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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from jobs.errors import ConfigError
from jobs.training.inputs import to_us
from model.config import RankerConfig
from model.distillation.config import DistillationConfig
from model.embeddings import extend_tables, forget_rows
from model.optim import Optimizers, extend_optimizer_state, forget_optimizer_state
from model.ranker import Ranker, Student

_WEIGHTS = "model.safetensors"
_AVERAGES = "averages.safetensors"
_OPTIMIZER = "optimizer.safetensors"
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
    evicted: dict[str, list[int]] = field(default_factory=dict)
    """Rows, by table, of the values that are out of vocabulary at `vocabulary_version`."""
    table_digests: dict[str, str] = field(default_factory=dict)
    """Hash of which value has which row, by table; earlier checkpoints do not say."""
    distillation: dict[str, Any] | None = None
    """`DistillationConfig` of a student; None for a teacher or a twin."""
    distillation_warmup_steps: int = 0
    """Steps of the first run over which the weight of distillation rose."""
    shared: dict[str, Any] | None = None
    """Whose parts a first run took over: `scorer`, its `run_id` and `trained_until`."""
    parent: str | None = None
    """Folder that training started from."""
    num_steps: int = 0
    position: dict[str, int] = field(default_factory=dict)
    """Where a resumed pass goes on."""
    progress: list[list[float]] = field(default_factory=list)
    """Within a segment: the sums over what has been predicted of it, as `Progress` keeps them."""

    @property
    def ranker_config(self) -> RankerConfig:
        """The model's shape."""
        return RankerConfig.model_validate(self.ranker)

    @property
    def distillation_config(self) -> DistillationConfig | None:
        """How the model learns from a teacher; None for a teacher or a twin."""
        if self.distillation is None:
            return None
        # Earlier cards name the head, which was always the auxiliary one.
        values = {k: v for k, v in self.distillation.items() if k != "head"}
        return DistillationConfig.model_validate(values)

    @property
    def learnt_until(self) -> datetime | None:
        """`trained_until` as a time."""
        return None if self.trained_until is None else datetime.fromisoformat(self.trained_until)


def learnt_until_us(card: Card) -> int:
    """`trained_until` in microseconds since 1970 UTC."""
    moment = card.learnt_until
    assert moment is not None, "a checkpoint that scores has learnt something"
    return to_us(moment)


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
    distillation = card.distillation_config
    if distillation is None:
        return Ranker(card.ranker_config, seed)
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
        model: Its state dict is written, rows of evicted values as the out-of-vocabulary row.
        averages: Averaged dense weights.
        optimizers: Their state is written.
        card: What it is.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = forget_rows(model.state_dict(), card.evicted)
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(weights, partial / _WEIGHTS)
    save_file(averages, partial / _AVERAGES)
    _save_states(partial / _OPTIMIZER, optimizers)
    (partial / _CARD).write_text(json.dumps(asdict(card), indent=1), encoding="utf-8")
    hashes = {name: _file_hash(partial / name) for name in _FILES}
    (partial / _MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    _swap_in(partial, folder)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint; a reader sees all of it or nothing."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _swap_in(partial, target)


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
    states = _load_states(folder / _OPTIMIZER)
    return Checkpoint(
        read_card(folder),
        load_file(folder / _WEIGHTS),
        load_file(folder / _AVERAGES),
        states["dense"],
        states["sparse"],
    )


def load_model(folder: Path) -> Ranker | Student:
    """A checkpoint as a model ready to score: averaged dense weights, tables as they are."""
    checkpoint = load_checkpoint(folder)
    model = build_model(checkpoint.card, seed=0)
    model.load_state_dict({**checkpoint.weights, **checkpoint.averages})
    return model.eval()


def grown(checkpoint: Checkpoint, wanted: Card) -> Checkpoint:
    """A checkpoint with its tables grown to a newer vocabulary.

    A newly admitted row is a copy of its out-of-vocabulary row, with zero optimiser state; so is
    the row of a value that the newer vocabulary has evicted.

    Args:
        checkpoint: The parent.
        wanted: What the run's model reads and how it is shaped.

    Raises:
        ConfigError: The checkpoint is of another shape or reads other columns, or its vocabulary
            is not an earlier one.
    """
    card, tables = checkpoint.card, wanted.ranker_config.tables
    changed = _differences(card, wanted)
    if changed:
        raise ConfigError(
            f"{card.name}: the parent differs from this run's network in {changed}; "
            "restore the setting, or start a new family under another contract name"
        )
    if (card.vocabulary_version or 0) > (wanted.vocabulary_version or 0):
        raise ConfigError(
            f"{card.name}: a vocabulary only grows; the parent knows version "
            f"{card.vocabulary_version}, the run packed version {wanted.vocabulary_version}; "
            "build the vocabulary again in the home that the parent was trained in"
        )
    try:
        weights = extend_tables(checkpoint.weights, tables)
        sparse = extend_optimizer_state(checkpoint.sparse_state, tables)
    except ValueError as error:
        raise ConfigError(f"{card.name}: {error}") from error
    return replace(
        checkpoint,
        card=replace(card, ranker=wanted.ranker),
        weights=forget_rows(weights, wanted.evicted),
        sparse_state=forget_optimizer_state(sparse, wanted.evicted),
    )


def _differences(held: Card, wanted: Card) -> list[str]:
    """Names of the settings in which a model may not differ from its parent; tables may grow."""
    same = held.ranker_config.model_copy(update={"tables": wanted.ranker_config.tables})
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(same, name), getattr(wanted.ranker_config, name))
        for name in RankerConfig.model_fields
    }
    for name in ("categorical", "dense"):
        pairs[name] = getattr(held, name), getattr(wanted, name)
    for name in ("has_auxiliary_head", "adapter", "adapter_hidden", "initialised", "frozen"):
        old, new = (getattr(card.distillation_config, name, None) for card in (held, wanted))
        pairs[f"distillation.{name}"] = old, new
    aligned = [getattr(card.distillation_config, "alignment", None) for card in (held, wanted)]
    old, new = (None if one is None else one.dim for one in aligned)
    pairs["distillation.alignment.dim"] = old, new
    return [name for name, (old, new) in pairs.items() if old != new]


def weights_hash(folder: Path) -> str:
    """Hash of a checkpoint's weights, as served, and of those of the twin in it."""
    files = [path for path in folder.rglob("*.safetensors") if path.name != _OPTIMIZER]
    hashes = "".join(_file_hash(path) for path in sorted(files))
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]


def _save_states(path: Path, optimizers: Optimizers) -> None:
    """Write optimiser states: tensors by `<optimiser>.<parameter>.<name>`, settings beside them."""
    tensors, groups = {}, {}
    for kind, optimizer in optimizers._asdict().items():
        state = optimizer.state_dict()
        groups[kind] = state["param_groups"]
        for index, values in state["state"].items():
            tensors |= {f"{kind}.{index}.{name}": x.contiguous() for name, x in values.items()}
    save_file(tensors, path, metadata={"groups": json.dumps(groups)})


def _load_states(path: Path) -> dict[str, dict[str, Any]]:
    """Optimiser state dicts by optimiser, as `_save_states` wrote them."""
    with safe_open(path, framework="pt") as file:
        groups = json.loads(file.metadata()["groups"])
    states = {kind: {"state": {}, "param_groups": own} for kind, own in groups.items()}
    for key, tensor in load_file(path).items():
        kind, index, name = key.split(".")
        states[kind]["state"].setdefault(int(index), {})[name] = tensor
    return states


def _swap_in(partial: Path, folder: Path) -> None:
    """Put a complete folder in place; what was there is moved aside first, then deleted."""
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _verify(folder: Path, names: Sequence[str]) -> None:
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        raise ConfigError(f"checkpoint {folder}: no manifest; it is incomplete, train again")
    hashes = json.loads(manifest.read_text(encoding="utf-8"))
    for name in names:
        path = folder / name
        if not path.is_file() or _file_hash(path) != hashes.get(name):
            raise ConfigError(
                f"checkpoint {folder}: {name} is not the file that was written; "
                "restore it or train again"
            )


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
