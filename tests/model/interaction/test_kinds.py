"""What every interaction stack promises, whatever its kind."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import ranker
from model.interaction import kinds
from model.interaction.config import (
    CrossLayerConfig,
    DcnV2Config,
    DlrmConfig,
    Interaction,
    LogisticConfig,
    MlpConfig,
    RankMixerConfig,
)
from model.interaction.kinds import build_interaction
from model.ranker import Ranker
from tests.model.samples import config_without_history, make_batch, ranker_config, wukong_config

STACKS = [
    (wukong_config(), 5),
    (wukong_config(cross_layer=CrossLayerConfig(num_tokens=2, num_heads=4)), 5),
    (DcnV2Config(num_cross_layers=3, deep_hidden=(7, 16)), 8),
    (DcnV2Config(num_cross_layers=3, deep_hidden=(7, 16), structure="stacked"), 2),
    (DlrmConfig(num_kept_tokens=0, top_hidden=(7, 24)), 3),
    (DlrmConfig(num_kept_tokens=2, top_hidden=(24,)), 3),
    (RankMixerConfig(num_layers=2, num_mixed_tokens=4, expansion=3), 4),
    (MlpConfig(hidden=(7, 16)), 2),
    (MlpConfig(hidden=(7, 16), batch_norm=True), 2),
    (LogisticConfig(), 1),
]
every_stack = pytest.mark.parametrize(
    ("config", "num_outputs"),
    STACKS,
    ids=[f"{config.kind}{i}" for i, (config, _) in enumerate(STACKS)],
)


@every_stack
def test_parameters_equal_the_closed_form(config, num_outputs):
    stack = build_interaction(config, 6, 8)
    counted = sum(parameter.numel() for parameter in stack.parameters())
    assert kinds.num_parameters(config, 6, 8) == counted


@every_stack
def test_flops_equal_the_closed_form(config, num_outputs):
    stack = build_interaction(config, 6, 8)
    with FlopCounterMode(display=False) as counter:
        stack(torch.randn(10, 6, 8))
    assert counter.get_total_flops() == pytest.approx(10 * kinds.flops(config, 6, 8), rel=0.02)


@every_stack
def test_tokens_out_are_those_that_the_config_announces(config, num_outputs):
    assert config.num_output_tokens(6, 8) == num_outputs
    assert build_interaction(config, 6, 8)(torch.randn(3, 6, 8)).shape == (3, num_outputs, 8)


@every_stack
def test_a_row_depends_on_itself_alone(config, num_outputs):
    torch.manual_seed(0)
    stack = build_interaction(config, 6, 8).eval()
    tokens = torch.randn(5, 6, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = stack(tokens)
    torch.testing.assert_close(stack(tokens[order]), expected[order])
    tokens[2] = torch.nan
    poisoned = stack(tokens)
    assert poisoned[2].isnan().any()
    kept = [0, 1, 3, 4]
    torch.testing.assert_close(poisoned[kept], expected[kept], atol=0.0, rtol=0.0)


@every_stack
def test_config_survives_json_as_one_of_the_union(config, num_outputs):
    union = TypeAdapter(Interaction)
    assert union.validate_json(union.dump_json(config)) == config


@pytest.mark.parametrize(
    "config", [config for config, _ in STACKS if config.kind not in ("wukong", "logistic")]
)
def test_a_ranker_is_counted_and_scores_with_any_stack(config):
    shape = ranker_config(interaction=config)
    model = Ranker(shape)
    assert ranker.num_parameters(shape) == sum(p.numel() for p in model.parameters())
    batch = make_batch(shape, (6,) * 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(batch)
    assert counter.get_total_flops() == pytest.approx(8 * ranker.flops(shape, 6), rel=0.02)
    assert output.representation.shape == (8, shape.representation_dim)
    output.logits.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.interaction.parameters())


def linear_config(**changes):
    values = {"interaction": LogisticConfig(), "head_hidden": (), "dense_hidden": None}
    return config_without_history().model_copy(update=values | changes)


def test_log_odds_of_a_logistic_ranker_are_a_sum_over_features():
    config = type(linear_config()).model_validate(linear_config().model_dump())
    model = Ranker(config)
    model.set_prior(torch.full((2, 3), 0.2))
    batch = make_batch(config, (0,) * 4)
    z = model(batch).logits
    # Exchanging one column between two rows leaves the sum of their log-odds as it was.
    for column in (batch.categorical[:, 0], batch.categorical[:, 1], batch.dense[:, 2]):
        swapped = column.clone()
        column[[0, 1]] = swapped[[1, 0]]
        batch.domain[:] = 0
        exchanged = model(batch).logits
        column[[0, 1]] = swapped[[0, 1]]
        original = model(batch).logits
        assert (exchanged[0] - original[0]).abs().max() > 1e-4
        torch.testing.assert_close(
            exchanged[0] + exchanged[1], original[0] + original[1], atol=1e-5, rtol=1e-5
        )
    assert z.shape == (4, 3)


@pytest.mark.parametrize("change", [{"head_hidden": (4,)}, {"dense_hidden": 6}])
def test_a_logistic_ranker_with_a_hidden_layer_is_refused(change):
    wrong = linear_config(**change)
    with pytest.raises(ValidationError, match="a logistic ranker is linear"):
        type(wrong).model_validate(wrong.model_dump())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MlpConfig(hidden=(8, 12)), "interaction.hidden: .* width 8 must divide it; found 12"),
        (DcnV2Config(num_cross_layers=1, deep_hidden=(12,)), "interaction.deep_hidden: .* 12"),
        (DlrmConfig(num_kept_tokens=0, top_hidden=(12,)), "interaction.top_hidden: .* found 12"),
        (DlrmConfig(num_kept_tokens=8, top_hidden=(8,)), "num_kept_tokens: .* found 8 of 7"),
        (
            RankMixerConfig(num_layers=1, num_mixed_tokens=3, expansion=1),
            "num_mixed_tokens: the tokens must divide width 8; found 3",
        ),
    ],
)
def test_a_stack_that_does_not_fit_the_tokens_is_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        ranker_config(interaction=config)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TypeAdapter(Interaction).validate_python({"kind": "fm"})
