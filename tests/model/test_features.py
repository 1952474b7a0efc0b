"""Feature tokens of fields, bags, groups, dense columns and content."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model import features
from model.config import RankerConfig
from model.embedding_config import BagConfig, ContentConfig, FieldConfig, GroupConfig, TableConfig
from model.features import FeatureTokens
from model.ranker import Ranker
from tests.model.samples import config_without_history, make_batch, ranker_config


def test_tokens_are_projected_rows_and_then_the_dense_mlp():
    torch.manual_seed(0)
    config = ranker_config()
    module = FeatureTokens(config)
    item, user, dense = torch.randn(4, 5), torch.randn(4, 4), torch.randn(4, 3)
    hidden = torch.relu(dense @ module.dense_mlp[0].weight.T + module.dense_mlp[0].bias)
    dense_tokens = hidden @ module.dense_mlp[2].weight.T + module.dense_mlp[2].bias
    expected = [
        item @ module.projections[0].weight.T,
        user @ module.projections[1].weight.T,
        dense_tokens[:, :8],
        dense_tokens[:, 8:],
    ]
    torch.testing.assert_close(module((item, user), dense), torch.stack(expected, dim=1))


def test_table_of_the_tokens_width_is_taken_as_it_is():
    config = ranker_config(width=4)  # the tables have 5 and 4 columns
    module = FeatureTokens(config)
    item, user = torch.randn(3, 5), torch.randn(3, 4)
    tokens = module((item, user), torch.randn(3, 3))
    assert torch.equal(tokens[:, 1], user)
    assert features.num_parameters(config) == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module((item, user), torch.randn(3, 3))
    assert counter.get_total_flops() == pytest.approx(3 * features.flops(config), rel=0.02)


def test_ranker_without_dense_columns_has_only_field_tokens():
    module = FeatureTokens(ranker_config(num_dense=0, num_dense_tokens=0))
    tokens = module((torch.randn(4, 5), torch.randn(4, 4)), torch.empty(4, 0))
    assert tokens.shape == (4, 2, 8)


def test_parameters_and_flops_equal_the_closed_forms():
    config = ranker_config()
    module = FeatureTokens(config)
    assert features.num_parameters(config) == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module((torch.randn(10, 5), torch.randn(10, 4)), torch.randn(10, 3))
    assert counter.get_total_flops() == pytest.approx(10 * features.flops(config), rel=0.02)


def rich_config(**changes):
    """An important field of two tokens, a group of a field and a bag, a bag alone, a vector."""
    values = {
        "tables": (
            TableConfig(name="item", num_rows=20, dim=16),
            TableConfig(name="user", num_rows=11, dim=4),
            TableConfig(name="tag", num_rows=7, dim=3),
        ),
        "fields": (
            FieldConfig(name="user_id", table="user"),
            FieldConfig(name="ad_id", table="item", num_tokens=2),
        ),
        "bags": (
            BagConfig(name="tags", table="tag"),
            BagConfig(name="seen", table="user", num_tokens=3, pooling="mean"),
        ),
        "groups": (GroupConfig(fields=("tags", "user_id"), hidden=(5,)),),
        "content": (ContentConfig(name="text", dim=6),),
    }
    base = config_without_history().model_dump()
    return RankerConfig.model_validate(base | values | changes)


def rich_inputs(num_rows=4):
    torch.manual_seed(0)
    user, ad, tags = torch.randn(num_rows, 4), torch.randn(num_rows, 16), torch.randn(num_rows, 3)
    seen, text = torch.randn(num_rows, 4), torch.randn(num_rows, 6)
    return (user, ad, tags, seen), torch.randn(num_rows, 3), (text,)


def test_tokens_of_every_feature_stand_in_the_order_of_the_docstring():
    config = rich_config()
    module = FeatureTokens(config)
    (user, ad, tags, seen), dense, (text,) = rich_inputs()
    tokens = module((user, ad, tags, seen), dense, (text,))
    assert tokens.shape == (4, config.num_feature_tokens, 8)
    assert config.num_feature_tokens == 2 + 3 + 1 + 2 + 1
    # 16 columns are two tokens of width 8 as they are.
    assert torch.equal(tokens[:, :2], ad.reshape(4, 2, 8))
    expected = seen @ module.projections[1].weight.T
    torch.testing.assert_close(tokens[:, 2:5], expected.reshape(4, 3, 8))
    group = module.group_mlps[0](torch.cat([tags, user], dim=1))
    torch.testing.assert_close(tokens[:, 5], group)
    torch.testing.assert_close(tokens[:, 6:8].flatten(1), module.dense_mlp(dense))
    given = text @ module.content[0].weight.T + module.content[0].bias
    torch.testing.assert_close(tokens[:, 8], given)


def test_rich_tokens_are_counted_in_closed_form():
    config = rich_config()
    module = FeatureTokens(config)
    assert features.num_parameters(config) == sum(p.numel() for p in module.parameters())
    inputs = rich_inputs(10)
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    assert counter.get_total_flops() == pytest.approx(10 * features.flops(config), rel=0.02)


def test_missing_vector_gives_the_bias_and_a_finite_gradient():
    module = FeatureTokens(rich_config())
    embedded, dense, (text,) = rich_inputs()
    text[1] = torch.nan
    tokens = module(embedded, dense, (text,))
    torch.testing.assert_close(tokens[1, 8], module.content[0].bias)
    tokens.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_a_row_of_features_reaches_no_other_row():
    module = FeatureTokens(rich_config())
    embedded, dense, content = rich_inputs()
    expected = module(embedded, dense, content)
    for tensor in (*embedded, dense):
        tensor[2] = torch.nan
    poisoned = module(embedded, dense, content)
    assert torch.equal(poisoned[[0, 1, 3]], expected[[0, 1, 3]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"groups": (GroupConfig(fields=("tags", "ad_id"), hidden=()),)},
            r"groups.fields: .* one token each, one of .'tags', 'user_id'.; found .'ad_id'.",
        ),
        (
            {"groups": (GroupConfig(fields=("tags", "user_id"), hidden=()),) * 2},
            "groups: names must be unique; found .'tags', 'user_id'.",
        ),
        (
            {"bags": (BagConfig(name="ad_id", table="tag"),), "groups": ()},
            "fields, bags and content: names must be unique; found .'ad_id'.",
        ),
        (
            {"bags": (BagConfig(name="tags", table="tags"),), "groups": ()},
            "bags.tags: the table must be one of",
        ),
    ],
)
def test_features_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rich_config(**changes)


def test_an_event_is_one_token():
    field = FieldConfig(name="item_id", table="item", num_tokens=2)
    history = ranker_config().history.model_dump() | {"fields": (field,)}
    with pytest.raises(ValueError, match="an event is one token"):
        ranker_config(history=history)


def test_important_and_minor_fields_score_in_a_ranker():
    config = rich_config(bags=(), content=(), tables=rich_config().tables[:2], groups=())
    grouped = rich_config(
        bags=(),
        content=(),
        tables=rich_config().tables[:2],
        fields=(*config.fields, FieldConfig(name="last_user_id", table="user")),
        groups=(GroupConfig(fields=("user_id", "last_user_id"), hidden=(5,)),),
    )
    assert (config.num_tokens, grouped.num_tokens) == (5, 5)
    for shape in (config, grouped):
        batch = make_batch(shape, (0,) * 3)
        assert Ranker(shape)(batch).logits.isfinite().all()
