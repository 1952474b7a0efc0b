"""Content is declared in the contract, and a mistake there is told where it was made."""

import pytest

from jobs.config import REPOSITORY, with_overrides
from jobs.content.settings import TfidfSvd
from jobs.contract import load_contract
from jobs.errors import ConfigError
from tests.jobs import samples
from tests.jobs.content.catalogue import ADS, CONTENT, contract


def encoder(**changes):
    return {**CONTENT, "encoder": {**CONTENT["encoder"], **changes}}


def test_bundled_contracts_declare_no_content():
    paths = sorted((REPOSITORY / "infra" / "contracts").glob("*.yaml"))
    assert {path.stem: load_contract(path).content for path in paths} == {
        path.stem: None for path in paths
    }
    assert len(paths) >= 2


def test_the_encoder_is_tfidf_of_characters_where_none_is_named():
    declared = contract({"feed": "ads", "fields": ["title"]}).content
    assert declared is not None
    assert declared.encoder == TfidfSvd(
        dim=64, analyzer="char_wb", ngrams=(3, 5), num_buckets=65_536
    )


def test_an_override_refits_the_encoder():
    settings = samples.recipe(contract())
    changed = with_overrides(settings, {"contract.content.encoder.refit": 1}).contract.content
    assert changed is not None
    assert changed.encoder == TfidfSvd(dim=4, num_buckets=256, refit=1)


def test_texts_are_columns_of_impressions_only_where_features_read_them():
    assert contract().unread_texts == {"ad_title", "ad_text"}
    categorical = ["user_id", "ad_id", "surface", "hour", "ad_title", "ad_brand"]
    read = contract(features__categorical=categorical)
    assert read.unread_texts == {"ad_text"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({**CONTENT, "feed": "shown"}, ["content.feed", "['ads']", "'shown'"]),
        ({**CONTENT, "fields": ["tittle"]}, ["content.fields: ads has no", "mean 'title'"]),
        ({**CONTENT, "fields": []}, ["content.fields", "at least 1"]),
        ({**CONTENT, "field": "x"}, ["unknown key content.field;", "'fields'"]),
        ({**CONTENT, "encoder": {"dim": 4}}, ["content.encoder.kind is missing"]),
        (encoder(kind="bert"), ["content.encoder", "'bert'", "'tfidf_svd', 'folder'"]),
        (encoder(buckets=4), ["unknown key content.encoder.buckets", "'num_buckets'"]),
        (encoder(ngrams=[2, 1]), ["content.encoder", "shortest n-gram", "(2, 1)"]),
        (encoder(dim=512), ["content.encoder", "at most num_buckets (256); found 512"]),
    ],
)
def test_a_mistake_is_told_where_it_was_made(content, parts):
    with pytest.raises(ConfigError) as caught:
        contract(content)
    for part in parts:
        assert part in str(caught.value)


def test_undated_texts_are_content_only_where_undated_attributes_are_read():
    undated = {key: value for key, value in ADS.items() if key != "known_ts"} | {"path": "a.csv"}
    with pytest.raises(ConfigError, match=r"that are dated.*found 'ads'"):
        contract(feeds__ads=undated)
    assert contract(feeds__ads=undated, features__use_undated_attributes=True).content
