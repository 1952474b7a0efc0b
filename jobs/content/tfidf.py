"""TF-IDF of hashed n-grams and a truncated SVD: the text encoder that needs nothing downloaded.

    x_g = (1 + log n_g) * (1 + log((1 + T) / (1 + T_g))),  v = V (x / |x|),  vector = v / |v|

n_g counts n-gram g in the text, T_g the texts among the T fitted on that have it, and the rows of V
are the first right singular vectors of those texts, each with its largest loading positive.
Latent semantic analysis: Deerwester et al., 1990.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.content.settings import TfidfSvd

_ABOUT, _WEIGHTS = "encoder.json", "weights.safetensors"
_POWER_ITERATIONS = 7
_NEGLIGIBLE = 1e-5
"""A singular value this small beside the first is rounding: its direction is left out."""


@dataclass(frozen=True)
class TfidfSvdEncoder:
    """A fitted encoder."""

    version: str
    settings: TfidfSvd
    idf: np.ndarray
    """float32, by bucket."""
    components: np.ndarray
    """V: float32, dim x buckets; rows of zeros where the texts had fewer directions."""
    about: Mapping[str, Any]
    """What it was fitted on."""

    @property
    def dim(self) -> int:
        """Columns of a vector."""
        return self.settings.dim

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32, of length 1; zeros for a text without a known n-gram."""
        rows = _weighted(_counts(self.settings, texts), self.idf)
        return unit_rows(rows @ self.components.T)


def fit(
    settings: TfidfSvd, texts: Sequence[str], version: str, about: Mapping[str, Any]
) -> TfidfSvdEncoder:
    """Fit an encoder on texts; the same texts in the same order give the same encoder."""
    from sklearn.utils.extmath import randomized_svd

    counts = _counts(settings, texts)
    seen = np.bincount(counts.indices, minlength=settings.num_buckets)
    idf = (1.0 + np.log((1.0 + len(texts)) / (1.0 + seen))).astype(np.float32)
    rank = min(settings.dim, len(texts))
    rows = _weighted(counts, idf).astype(np.float64)
    _, values, found = randomized_svd(
        rows,
        rank,
        n_iter=_POWER_ITERATIONS,  # pyright: ignore[reportArgumentType]
        random_state=settings.seed,
    )
    found = found * (values > _NEGLIGIBLE * values[0])[:, None]
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    components = np.zeros((settings.dim, settings.num_buckets), np.float32)
    components[:rank] = found * np.where(largest < 0, -1.0, 1.0)
    return TfidfSvdEncoder(version, settings, idf, components, about)


def save(encoder: TfidfSvdEncoder, folder: Path) -> None:
    """Keep an encoder, unless another run has kept one there meanwhile: the first one counts."""
    from safetensors.numpy import save_file

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({"idf": encoder.idf, "components": encoder.components}, partial / _WEIGHTS)
    about = {"version": encoder.version, **encoder.about}
    (partial / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)


def load(settings: TfidfSvd, folder: Path) -> TfidfSvdEncoder:
    """The encoder that is kept in a folder."""
    from safetensors.numpy import load_file

    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    version = about.pop("version")
    weights = load_file(folder / _WEIGHTS)
    return TfidfSvdEncoder(version, settings, weights["idf"], weights["components"], about)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1.0)).astype(np.float32)


def _counts(settings: TfidfSvd, texts: Sequence[str]) -> Any:
    """How often each n-gram is in each text: a sparse matrix, texts x buckets."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {
        # Single letters and digits are words too: a size, a grade.
        "token_pattern": r"(?u)\b\w+\b" if settings.analyzer == "word" else None,
        "norm": None,
        "dtype": np.float32,
    }
    hashing = HashingVectorizer(
        analyzer=settings.analyzer,
        ngram_range=settings.ngrams,
        n_features=settings.num_buckets,
        alternate_sign=False,
        strip_accents="unicode",
        **options,
    )
    return hashing.transform(texts)


def _weighted(counts: Any, idf: np.ndarray) -> Any:
    from sklearn.preprocessing import normalize

    rows = counts.copy()
    rows.data = (1.0 + np.log(rows.data)) * idf[rows.indices]
    return normalize(rows, copy=False)
