"""Texts are cut as BERT's own tests have it, and another tokeniser is refused."""

import json

import pytest

from jobs.content.wordpiece import read_tokenizer
from jobs.errors import ConfigError

PIECES = "[UNK] [CLS] [SEP] [PAD] want ##want ##ed wa un runn ##ing , low lowest a"
DECLARED = {
    "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {"type": "WordPiece", "vocab": {p: i for i, p in enumerate(PIECES.split())}},
}


def read(tmp_path, **changes):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**DECLARED, **changes}))
    return read_tokenizer(path)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("UNwant\u00c9d,running", "un ##want ##ed , runn ##ing"),
        (" \tlow\nlowest  ", "low lowest"),
        ("unwantedX running", "[UNK] runn ##ing"),
        ("low\u4e00low", "low [UNK] low"),
        ("lo\u0000w l\u200dow", "low low"),
        ("a" * 101, "[UNK]"),
        ("$", "[UNK]"),
        ("", ""),
    ],
)
def test_texts_are_cut_into_the_longest_pieces(tmp_path, text, pieces):
    assert read(tmp_path).pieces(text) == pieces.split()


def test_case_is_kept_where_the_model_has_it(tmp_path):
    cased = {**DECLARED["normalizer"], "lowercase": False}
    assert read(tmp_path, normalizer=cased).pieces("Low low") == ["[UNK]", "low"]


def test_rows_are_cut_and_padded_to_one_size(tmp_path):
    ids, mask = read(tmp_path).ids(
        ["low", "low low low", ""], 4, first="[CLS]", last="[SEP]", pad="[PAD]"
    )
    assert ids.tolist() == [[1, 12, 2, 3], [1, 12, 12, 2], [1, 2, 3, 3]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"type": "BPE"}}, "model.type is WordPiece.*found 'BPE'"),
        ({"normalizer": None}, "normalizer.type is BertNormalizer.*found None"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer.type .*found 'ByteLevel'"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "with '\\[UNK\\]' in it"),
    ],
)
def test_another_tokeniser_is_refused(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, **changes)
