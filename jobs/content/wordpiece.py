"""BERT's tokeniser: text to word pieces, as `tokenizer.json` of a Hugging Face model declares it.

Only its plain form is read: a `WordPiece` model behind a `BertNormalizer` and a `BertPreTokenizer`.
What else such a file may declare is refused, because its tokens would silently be others than those
the encoder was trained on.

Paper: Devlin et al., 2019 (arXiv 1810.04805), section 3; the rules are those of its
`tokenization.py`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.errors import ConfigError

_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class WordPiece:
    """A vocabulary and the rules by which texts are cut into its pieces."""

    vocabulary: Mapping[str, int]
    lowercase: bool
    strip_accents: bool
    split_ideographs: bool
    clean: bool
    unknown: str
    continuing: str
    """Prefix of a piece that goes on within a word."""
    longest_word: int
    """A longer word is unknown."""

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text, without special tokens."""
        return [piece for word in self._words(text) for piece in self._cut(word)]

    def ids(
        self, texts: Sequence[str], size: int, first: str, last: str, pad: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Texts as rows of ids, each between two special tokens, cut and padded to one size.

        Args:
            texts: The texts.
            size: Ids per row.
            first: Special token before a text.
            last: Special token after it.
            pad: Special token that fills a row.

        Returns:
            Ids and the mask that is 1 where a row is not padding: int64, texts x size.
        """
        ids = np.full((len(texts), size), self.vocabulary[pad], np.int64)
        mask = np.zeros((len(texts), size), np.int64)
        for row, text in enumerate(texts):
            found = [first, *self.pieces(text)[: size - 2], last]
            ids[row, : len(found)] = [self.vocabulary[piece] for piece in found]
            mask[row, : len(found)] = 1
        return ids, mask

    def _words(self, text: str) -> Iterator[str]:
        shown = "".join(self._spaced(text))
        for part in shown.split():
            word = part.lower() if self.lowercase else part
            if self.strip_accents:
                plain = unicodedata.normalize("NFD", word)
                word = "".join(c for c in plain if unicodedata.category(c) != "Mn")
            start = 0
            for at, letter in enumerate(word):
                if _is_punctuation(letter):
                    if start < at:
                        yield word[start:at]
                    yield letter
                    start = at + 1
            if start < len(word):
                yield word[start:]

    def _spaced(self, text: str) -> Iterator[str]:
        for letter in text:
            if self.clean and (letter in "\0\ufffd" or _is_control(letter)):
                continue
            ideograph = self.split_ideographs and any(
                low <= ord(letter) <= high for low, high in _IDEOGRAPHS
            )
            yield f" {letter} " if ideograph else letter

    def _cut(self, word: str) -> list[str]:
        """Longest piece first, from the left; all of a word is unknown where a part of it is."""
        if len(word) > self.longest_word:
            return [self.unknown]
        found, start = [], 0
        while start < len(word):
            prefix = self.continuing if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.vocabulary), None)
            if end is None:
                return [self.unknown]
            found.append(prefix + word[start:end])
            start = end
        return found


def read_tokenizer(path: Path) -> WordPiece:
    """Read a tokeniser.

    Raises:
        ConfigError: The file is missing or not JSON, or declares more than is understood here.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: a tokeniser in JSON is needed; found {error}") from error
    model = _part(path, raw, "model", "WordPiece")
    normalizer = _part(path, raw, "normalizer", "BertNormalizer")
    _part(path, raw, "pre_tokenizer", "BertPreTokenizer")
    vocabulary, unknown = model.get("vocab"), model.get("unk_token", "[UNK]")
    if not isinstance(vocabulary, dict) or unknown not in vocabulary:
        raise ConfigError(
            f"{path}: model.vocab is an object of ids by piece with {unknown!r} in it; found "
            f"{str(vocabulary)[:60]}; save the tokeniser of the exported model again"
        )
    lowercase = normalizer.get("lowercase", True)
    accents = normalizer.get("strip_accents")
    return WordPiece(
        vocabulary=vocabulary,
        lowercase=lowercase,
        strip_accents=lowercase if accents is None else accents,
        split_ideographs=normalizer.get("handle_chinese_chars", True),
        clean=normalizer.get("clean_text", True),
        unknown=unknown,
        continuing=model.get("continuing_subword_prefix", "##"),
        longest_word=model.get("max_input_chars_per_word", 100),
    )


def _part(path: Path, raw: Any, name: str, kind: str) -> dict[str, Any]:
    part = raw.get(name) if isinstance(raw, dict) else None
    found = part.get("type") if isinstance(part, dict) else part
    if not isinstance(part, dict) or found != kind:
        raise ConfigError(
            f"{path}: {name}.type is {kind}, the one kind that is understood; found {found!r}; "
            "export an encoder of the BERT family, with the tokenizer.json of its fast tokeniser"
        )
    return part


def _is_control(letter: str) -> bool:
    return letter not in "\t\n\r" and unicodedata.category(letter).startswith("C")


def _is_punctuation(letter: str) -> bool:
    """Every ASCII sign that is no letter, digit or space counts, `$` and `^` too."""
    if letter.isascii():
        return letter.isprintable() and not letter.isalnum() and letter != " "
    return unicodedata.category(letter).startswith("P")
