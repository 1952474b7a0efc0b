"""What a contract says of its items' content: which texts, and what turns them into vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.settings import Settings


class TfidfSvd(Settings):
    """TF-IDF of hashed n-grams, reduced by a truncated SVD; fitted once, then kept.

    It is fitted by the first run that finds texts, on those known before its training cut-off, and
    used unchanged from then on, so that vectors of different days can be compared. A change of any
    setting here fits anew and makes a new version.
    """

    kind: Literal["tfidf_svd"] = "tfidf_svd"
    dim: int = Field(default=64, ge=1, le=1024)
    """Columns of a vector."""
    analyzer: Literal["word", "char_wb"] = "char_wb"
    """n-grams of words, or of characters within words, which forgive spelling and inflection."""
    ngrams: tuple[int, int] = (3, 5)
    """Shortest and longest n-gram; with words, (1, 2) is usual."""
    num_buckets: int = Field(default=2**16, ge=2, le=2**22)
    """Columns that n-grams are hashed into."""
    max_fit_texts: int = Field(default=200_000, ge=1)
    """Of more different texts than this, a sample by hash is fitted on."""
    seed: int = 0
    """Seed of the randomised SVD."""
    refit: int = Field(default=0, ge=0)
    """Raise it to fit anew on today's texts: a new version, and every item is encoded again."""

    @model_validator(mode="after")
    def _fits(self) -> TfidfSvd:
        shortest, longest = self.ngrams
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"ngrams: the shortest n-gram, at least 1, then the longest; found {self.ngrams}"
            )
        if self.dim > self.num_buckets:
            raise ValueError(f"dim: at most num_buckets ({self.num_buckets}); found {self.dim}")
        return self


class TextEncoderFolder(Settings):
    """A text encoder of one's own: see `jobs/content/folder.py` for what lies in its folder."""

    kind: Literal["folder"]
    path: str
    """The folder; a relative path is taken below `LAPIDARY_HOME`."""


class Content(Settings):
    """Which texts tell what an item is."""

    feed: str
    """An attributes feed of ads whose keys are the items of impressions and of events."""
    fields: list[str] = Field(min_length=1)
    """Attributes of the feed that are read as one text, in this order."""
    encoder: Annotated[TfidfSvd | TextEncoderFolder, Field(discriminator="kind")] = TfidfSvd()
