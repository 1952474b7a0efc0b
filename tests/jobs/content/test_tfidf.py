"""The fitted encoder is the formula, the same whenever and in whatever company a text comes."""

import math

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from jobs.content import tfidf
from jobs.content.settings import TfidfSvd

SETTINGS = TfidfSvd(dim=3, analyzer="word", ngrams=(1, 1), num_buckets=512)
TEXTS = ["red mug mug", "blue mug", "white lamp", "red lamp shade", "blue lamp"]


@pytest.fixture(scope="module")
def fitted():
    return tfidf.fit(SETTINGS, TEXTS, "version", {"texts": 5})


def test_vectors_are_the_formula_written_out(fitted):
    words = sorted({word for text in TEXTS for word in text.split()})
    weights = np.zeros((len(TEXTS), len(words)))
    for row, text in enumerate(TEXTS):
        for column, word in enumerate(words):
            times = text.split().count(word)
            texts = sum(word in other.split() for other in TEXTS)
            if times:
                weights[row, column] = (1 + math.log(times)) * (1 + math.log(6 / (1 + texts)))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    _, _, directions = np.linalg.svd(weights)
    reduced = weights @ directions[:3].T
    reduced /= np.linalg.norm(reduced, axis=1, keepdims=True)
    found = fitted.encode(TEXTS)
    # Columns' signs are a convention; angles between texts are not.
    np.testing.assert_allclose(found @ found.T, reduced @ reduced.T, atol=1e-5)
    buckets = HashingVectorizer(n_features=512, norm=None, alternate_sign=False).transform(words)
    assert len(set(buckets.indices)) == len(words), "the words share no bucket"


def test_the_largest_loading_of_a_component_is_positive(fitted):
    largest = np.abs(fitted.components).argmax(axis=1)
    assert (fitted.components[np.arange(3), largest] > 0).all()


def test_the_same_texts_give_the_same_bits(fitted):
    again = tfidf.fit(SETTINGS, TEXTS, "version", {})
    assert again.components.tobytes() == fitted.components.tobytes()
    assert again.idf.tobytes() == fitted.idf.tobytes()


def test_the_company_of_a_text_changes_no_bit_of_its_vector(fitted):
    alone = np.concatenate([fitted.encode([text]) for text in TEXTS])
    assert alone.tobytes() == fitted.encode(TEXTS).tobytes()


def test_a_text_of_unknown_words_is_no_direction(fitted):
    assert fitted.encode(["", "zebra"]).tolist() == [[0.0] * 3] * 2


def test_fewer_texts_than_columns_leave_the_last_ones_empty():
    few = tfidf.fit(SETTINGS, ["red mug", "red mug"], "version", {})
    assert np.abs(few.components).sum(axis=1)[1:].tolist() == [0.0, 0.0]
    assert few.encode(["red mug"]).tolist() == [[pytest.approx(1.0), 0.0, 0.0]]


def test_a_kept_encoder_reads_back_bit_by_bit_and_the_first_one_kept_counts(fitted, tmp_path):
    folder = tmp_path / "encoders" / "one"
    tfidf.save(fitted, folder)
    tfidf.save(tfidf.fit(SETTINGS, TEXTS[:3], "late", {}), folder)
    read = tfidf.load(SETTINGS, folder)
    assert (read.version, dict(read.about)) == ("version", {"texts": 5})
    assert read.encode(TEXTS).tobytes() == fitted.encode(TEXTS).tobytes()
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
