"""A text encoder in a folder: three files, none of which can run code of its own.

| File | What is in it |
| --- | --- |
| `encoder.json` | `{"format": 1, "dim": …, "max_tokens": …, "batch_size": …}`; where they are not
    `[CLS]`, `[SEP]`, `[PAD]`, the special tokens as `first_token`, `last_token`, `pad_token` too |
| `tokenizer.json` | as a Hugging Face fast tokeniser of the BERT family saves it |
| `model.pt2` | a `torch.export` program of fixed shapes: ids and mask, both int64, \
`batch_size` x `max_tokens`, to a floating-point tensor, `batch_size` x `dim` |

To make one of a Hugging Face model (`transformers` is needed there, not here):

    class Pooled(torch.nn.Module):
        def __init__(self, bert):
            super().__init__()
            self.bert = bert

        def forward(self, ids, mask):
            hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[:, :, None].to(hidden.dtype)
            return (hidden * weight).sum(1) / weight.sum(1)

    bert = AutoModel.from_pretrained(name, attn_implementation="eager").eval()
    # Two tensors: of one given twice, export would make one input.
    ids, mask = (torch.ones(32, 64, dtype=torch.int64) for _ in range(2))
    torch.export.save(torch.export.export(Pooled(bert), (ids, mask)), folder / "model.pt2")
    AutoTokenizer.from_pretrained(name).backend_tokenizer.save(str(folder / "tokenizer.json"))
    about = {"format": 1, "dim": bert.config.hidden_size, "max_tokens": 64, "batch_size": 32}
    (folder / "encoder.json").write_text(json.dumps(about))

The program is always called with one whole batch, the last one filled up: the texts beside a text
change its vector by rounding at most. `torch.export.load` itself trusts its file; so the file is
read first, and refused where it holds a pickled object, compiled code, a symbolic expression, or an
operator outside ATen.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from jobs.content.tfidf import unit_rows
from jobs.content.wordpiece import WordPiece, read_tokenizer
from jobs.errors import ConfigError
from jobs.settings import Settings, checked

_ABOUT, _TOKENIZER, _PROGRAM = "encoder.json", "tokenizer.json", "model.pt2"
_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_PLAIN = (
    "byteorder",
    "archive_format",
    "archive_version",
    ".data/version",
    ".data/serialization_id",
    ".format_version",
    ".storage_alignment",
)
_TENSORS = ("data/weights/weight_", "data/constants/tensor_")
_OPERATORS = ("torch.ops.aten.", "torch.ops.higher_order.", "_operator.getitem")


class About(Settings):
    """`encoder.json`."""

    format: Literal[1]
    dim: int = Field(ge=1, le=4096)
    max_tokens: int = Field(ge=3, le=8192)
    batch_size: int = Field(ge=1, le=4096)
    first_token: str = "[CLS]"
    last_token: str = "[SEP]"
    pad_token: str = "[PAD]"


@dataclass(frozen=True)
class FolderEncoder:
    """An encoder read from its folder."""

    version: str
    """Hash of the three files."""
    about: About
    tokenizer: WordPiece
    program: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @property
    def dim(self) -> int:
        """Columns of a vector."""
        return self.about.dim

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32, of length 1."""
        size = self.about.batch_size
        found = np.zeros((len(texts), self.dim), np.float32)
        for at in range(0, len(texts), size):
            part = texts[at : at + size]
            found[at : at + size] = self._batch([*part, *[""] * (size - len(part))])[: len(part)]
        return unit_rows(found)

    def _batch(self, texts: Sequence[str]) -> np.ndarray:
        about = self.about
        ids, mask = self.tokenizer.ids(
            texts, about.max_tokens, about.first_token, about.last_token, about.pad_token
        )
        with torch.inference_mode():
            vectors = self.program(torch.from_numpy(ids), torch.from_numpy(mask))
        return vectors.to(torch.float32).numpy()


def open_folder(folder: Path) -> FolderEncoder:
    """Read an encoder and try it once.

    Raises:
        ConfigError: A file is missing or does not fit.
    """
    for name in (_ABOUT, _TOKENIZER, _PROGRAM):
        if not (folder / name).is_file():
            raise ConfigError(
                f"contract.content.encoder: no file {name} in {folder}; a text encoder's folder "
                f"holds {_ABOUT}, {_TOKENIZER} and {_PROGRAM}, see jobs/content/folder.py"
            )
    files = {name: (folder / name).read_bytes() for name in (_ABOUT, _TOKENIZER, _PROGRAM)}
    try:
        raw = json.loads(files[_ABOUT])
    except ValueError as error:
        raise ConfigError(f"{folder / _ABOUT}: not JSON: {error}; write it again") from error
    about = checked(About, raw, str(folder / _ABOUT))
    tokenizer = read_tokenizer(folder / _TOKENIZER)
    for name in (about.first_token, about.last_token, about.pad_token):
        if name not in tokenizer.vocabulary:
            raise ConfigError(
                f"{folder / _TOKENIZER}: the special token {name!r} is not in its vocabulary; name "
                f"the model's own in {_ABOUT} (first_token, last_token, pad_token)"
            )
    program = _program(folder / _PROGRAM, files[_PROGRAM])
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}:{len(content)}:".encode() + content)
    encoder = FolderEncoder(digest.hexdigest()[:16], about, tokenizer, program)
    _try(encoder, folder / _PROGRAM)
    return encoder


def _try(encoder: FolderEncoder, path: Path) -> None:
    """Hold the program against what its folder says of it, on one batch without text."""
    about = encoder.about
    shape = (about.batch_size, about.max_tokens)
    wanted = f"two int64 tensors of {shape} become floats of {(about.batch_size, about.dim)}"
    ids = torch.full(shape, encoder.tokenizer.vocabulary[about.pad_token], dtype=torch.int64)
    try:
        with torch.inference_mode():
            made = encoder.program(ids, torch.ones_like(ids))
    # What a program raises where its input does not fit is of many kinds.
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"{path}: {wanted}; it failed: {first}; export it anew") from error
    if not isinstance(made, torch.Tensor):
        raise ConfigError(f"{path}: {wanted}; found a {type(made).__name__}; return one tensor")
    found = f"found {made.dtype} of {tuple(made.shape)}"
    if made.shape != (about.batch_size, about.dim) or not made.is_floating_point():
        raise ConfigError(f"{path}: {wanted}; {found}; correct {_ABOUT} or export it anew")
    if not bool(made.isfinite().all()):
        raise ConfigError(f"{path}: vectors are finite; found some that are not; export it anew")


def _program(path: Path, content: bytes) -> Any:
    """The program, once its file is known to hold data alone."""
    fault = next(_faults(content), None)
    if fault is not None:
        raise ConfigError(
            f"{path}: {fault}; export the model with fixed shapes by torch.export.export and "
            "torch.export.save, see jobs/content/folder.py"
        )
    return torch.export.load(io.BytesIO(content)).module()


def _faults(content: bytes) -> Iterator[str]:
    """Why a program's file must not be loaded, the most basic reason first."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            # Below the one folder that is named after the file.
            below = {str(PurePosixPath(*PurePosixPath(name).parts[1:])): name for name in names}
            parsed = {name: json.loads(archive.read(below[name])) for name in (_MODEL, *_CONFIGS)}
            samples = archive.read(below[_SAMPLES])
    except (zipfile.BadZipFile, ValueError, KeyError) as error:
        yield f"no exported program can be read from it ({type(error).__name__}: {error})"
        return
    if len(below) < len(names):
        yield "a part's name is its own; found two of one name"
    known = {*_PLAIN, _MODEL, _SAMPLES, *_CONFIGS}
    strange = [name for name in below if name not in known and not name.startswith(_TENSORS)]
    if strange:
        yield f"a program is a graph and tensors alone; found {sorted(strange)[:3]}"
    facts = [fact for value in parsed.values() for fact in _walk(value)]
    if any(key == "use_pickle" and value for key, value in facts):
        yield "its tensors are stored as bytes; found pickled ones"
    if any(key in ("expr_str", "guards_code") and value for key, value in facts):
        yield "its shapes are fixed; found symbolic expressions"
    named = [value for key, value in facts if key in ("target", "as_operator")]
    targets = {value for value in named if isinstance(value, str)}
    other = sorted(target for target in targets if not target.startswith(_OPERATORS))
    if other:
        yield f"its operators are ATen's; found {other[:3]}"
    try:
        torch.load(io.BytesIO(samples), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        yield f"its sample inputs are tensors alone; found {str(error).splitlines()[:1]}"


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value below a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
