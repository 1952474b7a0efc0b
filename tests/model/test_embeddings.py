"""Feature tokens, the scaling of dense columns, and vocabularies that grow."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model import embeddings
from model.config import FieldConfig, TableConfig
from model.embeddings import (
    DenseNormaliser,
    EmbeddingTables,
    FeatureTokens,
    extend_tables,
    forget_rows,
    grow_table,
)
from tests.model.samples import ranker_config


def test_fields_that_share_a_table_read_the_same_rows():
    tables = EmbeddingTables((TableConfig(name="item", num_rows=3, dim=2),))
    weight = tables["table_item"].weight
    weight.data = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    fields = (FieldConfig(name="ad", table="item"), FieldConfig(name="last_ad", table="item"))
    ad, last_ad = tables(fields, torch.tensor([[1, 2], [0, 1]]))
    torch.testing.assert_close(ad, torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    torch.testing.assert_close(last_ad, torch.tensor([[4.0, 5.0], [2.0, 3.0]]))


def test_gradient_of_a_table_holds_only_the_rows_that_were_read():
    tables = EmbeddingTables((TableConfig(name="item", num_rows=1000, dim=2),))
    field = FieldConfig(name="ad", table="item")
    tables((field,), torch.tensor([[7], [3], [7]]))[0].sum().backward()
    gradient = tables["table_item"].weight.grad.coalesce()
    assert gradient.indices().tolist() == [[3, 7]]
    torch.testing.assert_close(gradient.values(), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))


@pytest.mark.parametrize("name", ["items", "type", "values", "train"])
def test_tables_may_be_named_like_methods_of_a_module(name):
    tables = EmbeddingTables((TableConfig(name=name, num_rows=2, dim=1),))
    assert tables((FieldConfig(name="x", table=name),), torch.tensor([[1]]))[0].shape == (1, 1)


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
    assert embeddings.num_parameters(config) == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module((item, user), torch.randn(3, 3))
    assert counter.get_total_flops() == pytest.approx(3 * embeddings.flops(config), rel=0.02)


def test_ranker_without_dense_columns_has_only_field_tokens():
    module = FeatureTokens(ranker_config(num_dense=0, num_dense_tokens=0))
    tokens = module((torch.randn(4, 5), torch.randn(4, 4)), torch.empty(4, 0))
    assert tokens.shape == (4, 2, 8)


def test_parameters_and_flops_equal_the_closed_forms():
    config = ranker_config()
    module = FeatureTokens(config)
    assert embeddings.num_parameters(config) == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module((torch.randn(10, 5), torch.randn(10, 4)), torch.randn(10, 3))
    assert counter.get_total_flops() == pytest.approx(10 * embeddings.flops(config), rel=0.02)


def test_normaliser_standardises_clips_and_takes_missing_for_the_mean():
    normaliser = DenseNormaliser(2)
    normaliser.fit(torch.tensor([[1.0, 10.0], [3.0, torch.nan], [torch.nan, 30.0]]))
    # Means 2 and 20, deviations 1 and 10.
    outputs = normaliser(torch.tensor([[4.0, torch.nan], [-99.0, 5.0], [torch.inf, 20.0]]))
    torch.testing.assert_close(outputs, torch.tensor([[2.0, 0.0], [-5.0, -1.5], [5.0, 0.0]]))


@given(constant=st.floats(-1e9, 1e9, width=32), count=st.integers(1, 50))
def test_constant_and_empty_columns_become_zero(constant, count):
    normaliser = DenseNormaliser(2)
    dense = torch.tensor([[constant, torch.nan]]).repeat(count, 1)
    normaliser.fit(dense)
    torch.testing.assert_close(
        normaliser(dense), torch.zeros(count, 2), atol=1e-6 * abs(constant), rtol=0.0
    )


def test_constant_column_that_changes_later_keeps_its_unit():
    normaliser = DenseNormaliser(1)
    normaliser.fit(torch.full((3, 1), 0.1))
    torch.testing.assert_close(normaliser(torch.tensor([[2.1]])), torch.tensor([[2.0]]))


def test_fitted_normaliser_is_kept_by_the_checkpoint_and_refuses_another_fit():
    parent, child = DenseNormaliser(1), DenseNormaliser(1)
    parent.fit(torch.tensor([[1.0], [3.0]]))
    child.load_state_dict(parent.state_dict())
    torch.testing.assert_close(child(torch.tensor([[4.0]])), torch.tensor([[2.0]]))
    with pytest.raises(ValueError, match="2 rows fitted before"):
        child.fit(torch.tensor([[5.0]]))


def test_normaliser_refuses_an_empty_sample():
    with pytest.raises(ValueError, match="at least one row"):
        DenseNormaliser(1).fit(torch.empty(0, 1))


def test_new_rows_copy_the_out_of_vocabulary_row_and_old_rows_stay():
    weight = torch.tensor([[0.5, -0.5], [1.0, 2.0]])
    grown = grow_table(weight, 4)
    expected = torch.tensor([[0.5, -0.5], [1.0, 2.0], [0.5, -0.5], [0.5, -0.5]])
    torch.testing.assert_close(grown, expected, atol=0.0, rtol=0.0)


def test_shrinking_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="only grows; found 3 rows to be cut to 2"):
        grow_table(torch.zeros(3, 1), 2)


def test_extending_touches_only_the_tables():
    state = {
        "tables.table_item.weight": torch.tensor([[1.0], [2.0]]),
        "heads.weight": torch.tensor([3.0]),
    }
    extended = extend_tables(state, (TableConfig(name="item", num_rows=3, dim=1),))
    torch.testing.assert_close(
        extended["tables.table_item.weight"], torch.tensor([[1.0], [2.0], [1.0]])
    )
    assert extended["heads.weight"] is state["heads.weight"]
    assert len(state["tables.table_item.weight"]) == 2


def test_forgotten_rows_are_the_out_of_vocabulary_row():
    state = {
        "tables.table_item.weight": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
        "heads.weight": torch.tensor([3.0]),
    }
    forgotten = forget_rows(state, {"item": [1, 3], "place": [1]})
    torch.testing.assert_close(
        forgotten["tables.table_item.weight"], torch.tensor([[1.0], [1.0], [3.0], [1.0]])
    )
    assert forgotten["heads.weight"] is state["heads.weight"]
    assert state["tables.table_item.weight"][1] == 2.0


def test_table_that_the_checkpoint_lacks_is_refused():
    with pytest.raises(ValueError, match=r"tables.item: .* found \[\]"):
        extend_tables({}, (TableConfig(name="item", num_rows=3, dim=1),))
