"""DIN and HSTU where a ranker reads its events: each row its own window of a shared timeline."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model import downstream
from model.downstream import build_downstream
from model.sequence.config import DinConfig, HstuConfig
from tests.model.samples import history_config, make_batch, ranker_config
from tests.reference import model_sequence as reference

ROWS = ((0, 4), (2, 3), (0, 7), (1, 0), (0, 6))
LENGTHS = (7, 2, 5)
KINDS = {
    "din": DinConfig(hidden=(6, 5), activation="prelu"),
    "dice": DinConfig(hidden=(6, 5)),
    "hstu": HstuConfig(num_layers=2, num_heads=2, head_dim=4, num_time_buckets=60),
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def make_config(kind, **changes):
    values = {"downstream": KINDS[kind], "max_events": 4} | changes
    return ranker_config(history=history_config(**values))


def make_module(kind, **changes):
    """Weights of the size of one, so that no term hides below the tolerance."""
    torch.manual_seed(0)
    config = make_config(kind, **changes)
    module = build_downstream(config).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(len(ROWS), config.num_feature_tokens, 8)
    return module, tokens, torch.randn(14, 8), make_batch(config, LENGTHS, rows=ROWS).history


def read_by(history, row, known):
    """Places of the four latest events that a row knows."""
    first = int(history.offsets[history.segment[row]])
    return list(range(first + max(0, known - 4), first + known))


def test_interests_equal_the_loop_over_rows_candidates_and_events():
    module, tokens, vectors, history = make_module("din")
    actual = module(tokens, vectors, history)
    for row, (_, known) in enumerate(ROWS):
        events = vectors[read_by(history, row, known)]
        for candidate in range(3):
            target = module.compress.weight[candidate] @ tokens[row]
            expected = reference.deep_interest(
                target[None], events, torch.tensor([0, len(events)]), module.interest.unit.mlp
            )
            torch.testing.assert_close(actual[row, candidate], expected[0], atol=1e-4, rtol=1e-4)


def test_candidates_after_their_events_equal_the_loop_over_pairs():
    module, tokens, vectors, history = make_module("hstu")
    actual = module(tokens, vectors, history)
    for row, (_, known) in enumerate(ROWS):
        at = read_by(history, row, known)
        sequence = torch.cat([vectors[at], module.compress.weight @ tokens[row]])
        shown = history.row_us[[row] * 3]
        times = torch.cat([history.event_us[at], shown]) // 1_000_000
        for layer in module.encoder.layers:
            weights = {
                "project": layer.project,
                "output": layer.output.weight,
                "output_bias": layer.output.bias,
                "position": layer.bias.position,
                "time": layer.bias.time,
            }
            assert len(layer.bias.position) == 4 + 3
            sequence = reference.hstu_layer(
                sequence, times, torch.tensor([0, len(sequence)]), weights, num_heads=2
            )
        torch.testing.assert_close(actual[row], sequence[-3:], atol=1e-3, rtol=1e-3)


@every_kind
def test_events_at_or_after_a_cut_off_change_nothing(kind):
    module, tokens, vectors, history = make_module(kind, max_events=6)
    clean = module(tokens, vectors, history)
    poisoned, times = vectors.clone(), history.event_us.clone()
    poisoned[6], times[6] = torch.nan, 0  # known to row 2 alone
    later = module(tokens, poisoned, dataclasses.replace(history, event_us=times))
    others = [0, 1, 3, 4]
    assert torch.equal(later[others], clean[others])
    assert later[2].isnan().all()
    # Beyond the cut-off of every row of the segment even a NaN goes unseen.
    poisoned = vectors.clone()
    poisoned[history.offsets[2] + 3 :] = torch.nan
    assert torch.equal(module(tokens, poisoned, history), clean)


@every_kind
def test_events_before_the_window_change_nothing(kind):
    module, tokens, vectors, history = make_module(kind)
    clean = module(tokens, vectors, history)
    vectors[0] = torch.nan  # row 0 knows four events of segment 0; the others know more
    dirty = module(tokens, vectors, history)
    assert dirty[0].isnan().all()
    assert torch.equal(dirty[1:], clean[1:])


@every_kind
def test_the_candidate_decides_what_is_read(kind):
    module, tokens, vectors, history = make_module(kind)
    changed = tokens.clone()
    changed[2] += 1.0
    before, after = module(tokens, vectors, history), module(changed, vectors, history)
    assert (after[2] - before[2]).abs().max() > 1e-3
    assert torch.equal(after[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


def test_hstu_knows_how_long_before_the_impression_an_event_happened():
    module, tokens, vectors, history = make_module("hstu")
    later = dataclasses.replace(history, row_us=history.row_us + 30 * 86_400_000_000)
    moved = (module(tokens, vectors, later) - module(tokens, vectors, history)).abs()
    assert moved[2].max() > 1e-4


@every_kind
def test_parameters_and_flops_equal_the_closed_forms(kind):
    config = make_config(kind, max_events=8)
    module = build_downstream(config)
    assert downstream.num_parameters(config) == sum(p.numel() for p in module.parameters())
    history = make_batch(config, (6,) * 4, rows=tuple((row % 4, 6) for row in range(8))).history
    tokens = torch.randn(8, config.num_feature_tokens, 8)
    with FlopCounterMode(display=False) as counter:
        module(tokens, torch.randn(24, 8), history)
    assert downstream.flops_per_event(config) == 0
    expected = 8 * downstream.flops_per_row(config, num_events=6)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
