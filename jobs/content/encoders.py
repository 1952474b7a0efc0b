"""Which encoder a run uses: one fitted before, one fitted now, or one of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jobs.command import log
from jobs.config import RunConfig
from jobs.content.settings import Content, TextEncoderFolder
from jobs.content.texts import Texts, digest


class Encoder(Protocol):
    """Turns texts into vectors of length 1, but for rounding each whatever the texts beside it."""

    @property
    def version(self) -> str:
        """Name of exactly this encoder: equal versions give equal vectors."""
        ...

    @property
    def dim(self) -> int:
        """Columns of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors, float32, texts x dim."""
        ...


def open_encoder(config: RunConfig, content: Content, texts: Texts) -> Encoder | None:
    """The encoder of a contract's content.

    A fitted one is kept in `encoders/` below the home, by everything that the contract says of
    content. Its version tells settings, texts and cut-off, so that one lost with its home and
    fitted again on other texts is another one.

    Args:
        config: The run; one that finds no fitted encoder fits it on what was known before its gate
            window. A run of an earlier day uses it as it is.
        content: What the contract declares.
        texts: The items' texts.

    Returns:
        The encoder; None where it is still to be fitted and no text was known in time.

    Raises:
        ConfigError: The folder of a user's encoder does not fit.
    """
    settings = content.encoder
    if isinstance(settings, TextEncoderFolder):
        from jobs.content.folder import open_folder

        return open_folder(Path(config.home) / settings.path)
    from jobs.content import tfidf

    declared = content.model_dump(mode="json")
    folder = Path(config.home) / "encoders" / config.family / digest(declared)
    if not folder.is_dir():
        cut_off = config.plan.gate_start
        known = texts.known_before(cut_off, settings.max_fit_texts)
        if not known:
            log.info("content: no text was known before %s; nothing to fit on yet", cut_off)
            return None
        about = {
            "content": declared,
            "known_before": cut_off.isoformat(),
            "texts": len(known),
            "texts_hash": digest({"hashes": list(known)}),
            "run_id": config.run.run_id,
        }
        version = digest({key: value for key, value in about.items() if key != "run_id"})
        tfidf.save(tfidf.fit(settings, list(known.values()), version, about), folder)
        log.info("content: encoder %s fitted on %d texts", version, len(known))
    return tfidf.load(settings, folder)
