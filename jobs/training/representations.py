"""Encoders of a teacher's representations: fitted on rows before those that they compress.

An encoder belongs to a checkpoint of the teacher. It goes on from the encoder of the checkpoint
before, so that what is kept on one day can be read beside what was kept on another; its version,
the hash of its weights, stands beside everything that it has compressed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file

from jobs.command import log
from jobs.errors import ConfigError
from jobs.representation_settings import Representation
from jobs.training.checkpoints import learnt_until_us, load_model, read_card
from jobs.training.reader import Reader, as_known
from model.ranker import Ranker, Student
from model.representations.autoencoder import MatryoshkaAutoencoder, reconstruction_loss
from model.representations.config import AutoencoderConfig
from model.representations.quantise import pack, quantise

ENCODER = "encoder"
"""Subfolder of a checkpoint with its encoder."""
_WEIGHTS = "encoder.safetensors"
_CARD = "encoder.json"
_ROWS_PER_BATCH = 1024


@dataclass(frozen=True)
class Encoder:
    """What compresses the representations of one checkpoint."""

    model: MatryoshkaAutoencoder
    errors: tuple[float, ...]
    """Mean squared error of each nested width on the rows it was fitted on, in their variances."""
    num_rows: int
    """Rows that it was fitted on."""

    @property
    def version(self) -> str:
        """Hash of its weights."""
        return hashlib.sha256(save(_weights(self.model))).hexdigest()[:16]

    def compress(self, representations: torch.Tensor) -> np.ndarray:
        """Representations as they are kept: uint8, a line of bytes per row."""
        bits = self.model.config.bits
        with torch.no_grad():
            return pack(quantise(self.model.encode(representations), bits), bits).numpy()


def representations(model: Ranker | Student, reader: Reader, rows: np.ndarray) -> torch.Tensor:
    """What a model makes of rows under its heads: float32, rows x R."""
    ranker = (model.ranker if isinstance(model, Student) else model).to(reader.device)
    parts = [torch.zeros(0, ranker.config.representation_dim)]
    with torch.no_grad():
        for low in range(0, len(rows), _ROWS_PER_BATCH):
            batch = as_known(reader.batch(rows[low : low + _ROWS_PER_BATCH]), ranker.config)
            batch = batch.map(lambda tensor: tensor.to(reader.device))
            parts.append(ranker.represent(batch).cpu())
    return torch.cat(parts)


def fit_encoder(
    given: torch.Tensor, settings: Representation, previous: Encoder | None = None
) -> Encoder:
    """Fit an encoder.

    Args:
        given: Representations of rows that come before everything it is to compress, at least one.
        settings: Its shape and training.
        previous: The encoder to go on from; a new one starts if None, or if it is of another shape.

    Raises:
        ConfigError: The representations or the fit are not finite.
    """
    if not bool(given.isfinite().all()):
        raise ConfigError(
            "representation: what the teacher makes of a row is finite; found "
            f"{int((~given.isfinite()).any(dim=1).sum())} of {len(given)} rows that are not; look "
            "at its gates and train it again"
        )
    config = AutoencoderConfig(
        input_dim=given.shape[1],
        hidden=settings.hidden,
        prefixes=settings.prefixes,
        bits=settings.bits,
    )
    if previous is not None and previous.model.config != config:
        log.info("representation: the encoder is of another shape than before; a new one starts")
        previous = None
    model = MatryoshkaAutoencoder(config, settings.seed)
    if previous is not None:
        for name in ("encoder", "decoder"):
            held: Any = getattr(previous.model, name)
            getattr(model, name).load_state_dict(held.state_dict())
    # Scales are those of the rows at hand: the teacher's own drift from day to day.
    model.normaliser.fit(given)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    draw = np.random.default_rng(settings.seed)
    for _ in range(settings.steps if previous is None else settings.warm_steps):
        rows = torch.from_numpy(draw.integers(0, len(given), settings.batch_size))
        optimizer.zero_grad()
        _losses(model, given[rows]).sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        parts = [_losses(model, part) * len(part) for part in given.split(_ROWS_PER_BATCH)]
    errors = (torch.stack(parts).sum(dim=0) / len(given)).tolist()
    if not np.isfinite(errors).all():
        raise ConfigError(
            f"representation: the encoder's errors are {errors}; lower representation.lr"
        )
    return Encoder(model, tuple(errors), len(given))


def _losses(model: MatryoshkaAutoencoder, given: torch.Tensor) -> torch.Tensor:
    every = torch.ones(len(given), dtype=torch.bool)
    target, reconstructed = model(given)
    return reconstruction_loss(target, reconstructed, every, torch.tensor(float(len(given))))


def fit_encoders(
    checkpoints: Sequence[Path],
    reader: Reader,
    settings: Representation,
    first: Encoder | None,
) -> list[Encoder | None]:
    """An encoder for each of a teacher's checkpoints.

    Each is fitted on the rows shown between the checkpoint before and its own end, so on none that
    it compresses.

    Args:
        checkpoints: In the order of time.
        reader: The teacher's batches.
        settings: Shape and training of encoders.
        first: The encoder that the first checkpoint has already; None if it has none.

    Returns:
        By checkpoint; None where nothing had been shown before its end.
    """
    found: list[Encoder | None] = []
    previous, begin = first, np.iinfo(np.int64).min
    for index, folder in enumerate(checkpoints):
        end = learnt_until_us(read_card(folder))
        if index > 0 or first is None:
            rows = np.flatnonzero(
                (reader.packed.event_us >= begin) & (reader.packed.event_us < end)
            )
            if len(rows):
                taken = rows[-settings.max_rows :]
                given = representations(load_model(folder), reader, taken)
                previous = fit_encoder(given, settings, previous)
        begin = end
        found.append(previous)
    return found


def save_encoder(folder: Path, encoder: Encoder) -> None:
    """Write an encoder; what is there is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(_weights(encoder.model), folder / _WEIGHTS)
    card = {
        "config": encoder.model.config.model_dump(mode="json"),
        "version": encoder.version,
        "errors": encoder.errors,
        "num_rows": encoder.num_rows,
    }
    (folder / _CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")


def load_encoder(folder: Path) -> Encoder | None:
    """Read an encoder; None where there is none.

    Raises:
        ConfigError: The weights are not those that its card names.
    """
    if not (folder / _CARD).is_file():
        return None
    card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
    model = MatryoshkaAutoencoder(AutoencoderConfig.model_validate(card["config"]))
    model.load_state_dict(load_file(folder / _WEIGHTS))
    encoder = Encoder(model.eval(), tuple(card["errors"]), card["num_rows"])
    if encoder.version != card["version"]:
        raise ConfigError(
            f"encoder {folder}: the weights are of version {encoder.version}, the card says "
            f"{card['version']}; restore the folder, or run jobs.score_teacher again"
        )
    return encoder


def _weights(model: MatryoshkaAutoencoder) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in sorted(model.state_dict().items())}
