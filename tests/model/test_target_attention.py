"""Target attention: the candidate's queries over the events that its row may read."""

import dataclasses
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import events, target_attention
from model.events import AgeEncoding, EventEmbedding
from model.ranker import Ranker, num_parameters
from model.sequence.config import TargetAttentionConfig
from model.target_attention import TargetAttention
from tests.model.samples import history_config, make_batch, ranker_config, select_rows
from tests.reference import model_attention as reference

ROWS = ((0, 4), (2, 3), (0, 7), (1, 0), (0, 6))


def make_module(**changes):
    torch.manual_seed(0)
    config = ranker_config(history=history_config(**changes))
    batch = make_batch(config, (7, 2, 5), rows=ROWS)
    tokens = torch.randn(len(ROWS), config.num_feature_tokens, 8)
    return TargetAttention(config), tokens, torch.randn(14, 8), batch.history


def test_rows_that_share_a_timeline_read_what_rows_of_their_own_would():
    module, tokens, vectors, history = make_module(max_events=4)
    shared = module(tokens, vectors, history)
    for row, (segment, known) in enumerate(ROWS):
        batch = make_batch(ranker_config(), (7, 2, 5), rows=ROWS)
        own = select_rows(batch, [row]).history
        first = int(history.offsets[segment])
        own = dataclasses.replace(own, start=own.end - min(known, 4))
        alone = module(tokens[[row]], vectors[first : first + known], own)
        torch.testing.assert_close(shared[[row]], alone, atol=1e-6, rtol=1e-5)


def assert_equals_equations(actual, module, tokens, vectors, history, added=None):
    """The latest four events of every row, one after the other.

    Args:
        actual: Summary tokens of the rows.
        module: What made them.
        tokens: Feature tokens.
        vectors: Events.
        history: The timelines.
        added: What a row and an event add to the event's key and value, if anything.
    """
    for row, (segment, known) in enumerate(ROWS):
        if known == 0:
            continue
        first = int(history.offsets[segment])
        keys, values = [], []
        for event in range(first + max(0, known - 4), first + known):
            age = (history.row_us[row] - history.event_us[event])[None]
            both = module.key_value.weight @ vectors[event] + module.age(age)[0]
            both = both if added is None else both + added(row, event)
            keys.append(both[:8].view(2, 4))
            values.append(both[8:].view(2, 4))
        query = module.query(module.compress.weight @ tokens[row]).view(-1, 2, 4)
        every = torch.zeros(len(query), dtype=torch.int64)
        attended = reference.attend(
            query, torch.stack(keys), torch.stack(values), every, every + len(keys)
        )
        torch.testing.assert_close(
            actual[row], module.output(attended.flatten(1)), atol=1e-6, rtol=1e-5
        )


def test_summary_equals_the_equations_row_by_row():
    module, tokens, vectors, history = make_module(max_events=4)
    actual = module(tokens, vectors, history)
    assert_equals_equations(actual, module, tokens, vectors, history)


def test_events_at_or_after_a_cut_off_change_nothing():
    module, tokens, vectors, history = make_module(max_events=6)
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


def test_age_encoding_is_a_line_between_knots():
    torch.manual_seed(0)
    module = AgeEncoding(5)
    knots = module.knots.tolist()
    assert knots[-1] == pytest.approx(math.log1p(366 * 1440))
    table = module.projection.weight.T
    for left, share in ((0, 0.0), (2, 0.25), (6, 0.9)):
        tau = knots[left] + share * (knots[left + 1] - knots[left])
        age = torch.tensor([round(math.expm1(tau) * 60e6)])
        expected = (1 - share) * table[left] + share * table[left + 1]
        torch.testing.assert_close(module(age)[0], expected, atol=1e-5, rtol=1e-4)
    ends = module(torch.tensor([-(10**9), 10**15]))
    torch.testing.assert_close(ends, table[[0, -1]])


def test_age_is_told_to_the_second():
    torch.manual_seed(0)
    module = AgeEncoding(5)
    now = 1_790_000_000_000_000
    one, two = (module(torch.tensor([now - (now - s * 10**6)])) for s in (30, 31))
    assert (one - two).abs().max() > 1e-4


def matching_module():
    """Rows of two fields of which one shares its table with an event's; both know values 1 to 3."""
    torch.manual_seed(0)
    config = ranker_config(
        history=history_config(max_events=4, downstream=TargetAttentionConfig(matches=True))
    )
    batch = make_batch(config, (7, 2, 5), rows=ROWS)
    generator = torch.Generator().manual_seed(1)
    columns = torch.randint(0, 4, batch.history.categorical.shape, generator=generator)
    history = dataclasses.replace(batch.history, categorical=columns)
    rows = torch.randint(0, 4, (len(ROWS), 2), generator=generator)
    tokens = torch.randn(len(ROWS), config.num_feature_tokens, 8)
    return TargetAttention(config), tokens, torch.randn(14, 8), history, rows


def test_matches_are_silent_at_the_start_and_then_add_to_keys_and_values_of_equal_values():
    module, tokens, vectors, history, rows = matching_module()
    assert module.matched == ((0, 0),)  # both read the table of items
    plain = TargetAttention(ranker_config(history=history_config(max_events=4)))
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if "match" not in n})
    assert torch.equal(module(tokens, vectors, history, rows), plain(tokens, vectors, history))
    module.match.weight.data.normal_()
    found = []

    def added(row, event):
        value = int(rows[row, 0])
        found.append(value > 0 and value == int(history.categorical[event, 0]))
        return found[-1] * module.match.weight[:, 0]

    actual = module(tokens, vectors, history, rows)
    assert_equals_equations(actual, module, tokens, vectors, history, added)
    assert True in found
    assert False in found


def test_a_fresh_ranker_with_matches_is_bit_equal_to_one_without():
    changes = ({}, {"downstream": TargetAttentionConfig(matches=True)})
    configs = [ranker_config(history=history_config(**each)) for each in changes]
    batch = make_batch(configs[0], (7, 2, 5), rows=ROWS)
    plain, marking = (Ranker(config, 3).eval()(batch).logits for config in configs)
    assert torch.equal(plain, marking)


def test_values_that_no_table_knows_do_not_match():
    module, tokens, vectors, history, rows = matching_module()
    module.match.weight.data.normal_()
    unknown = dataclasses.replace(history, categorical=torch.zeros_like(history.categorical))
    silent = dataclasses.replace(history, categorical=torch.full_like(history.categorical, 9))
    none = module(tokens, vectors, silent, rows)
    assert torch.equal(module(tokens, vectors, unknown, torch.zeros_like(rows)), none)


def test_a_ranker_with_matches_learns_from_the_fields_of_its_rows():
    config = ranker_config(history=history_config(downstream=TargetAttentionConfig(matches=True)))
    ranker = Ranker(config, 0)
    batch = make_batch(config, (7, 2, 5), rows=ROWS)
    # Every event is of the item of row 0.
    columns = batch.history.categorical.clone()
    columns[:, 0] = batch.categorical[:, 0] = 5
    history = dataclasses.replace(batch.history, categorical=columns)
    ranker(dataclasses.replace(batch, history=history)).logits.sum().backward()
    gradient = ranker.history.attention.match.weight.grad
    assert gradient[8:].abs().min() > 0
    assert num_parameters(config) == sum(p.numel() for p in ranker.parameters())


def test_empty_history_yields_the_default_token():
    torch.manual_seed(0)
    config = ranker_config()
    module = TargetAttention(config)
    tokens = torch.randn(3, config.num_feature_tokens, 8)
    history = make_batch(config, (4,), rows=((0, 0), (0, 4), (0, 0))).history
    summary = module(tokens, torch.randn(4, 8), history)
    torch.testing.assert_close(summary[0], module.default)
    torch.testing.assert_close(summary[2], module.default)
    assert (summary[1] - module.default).abs().min() > 1e-4
    (gradient,) = torch.autograd.grad(summary.sum(), module.default)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 2.0))


def test_candidate_decides_what_is_read_from_the_history():
    torch.manual_seed(0)
    config = ranker_config()
    module = TargetAttention(config)
    tokens = torch.randn(2, config.num_feature_tokens, 8)
    history = make_batch(config, (6,), rows=((0, 6), (0, 6))).history
    history = dataclasses.replace(history, row_us=history.row_us[[0, 0]])
    summary = module(tokens, torch.randn(6, 8), history)
    assert (summary[0] - summary[1]).abs().max() > 1e-3


def test_event_embedding_is_the_normalised_sum_of_its_projections():
    torch.manual_seed(0)
    module = EventEmbedding(ranker_config())
    item, event_type, dense = torch.randn(4, 5), torch.randn(4, 3), torch.randn(4, 2)
    weight = module.projection.weight
    total = item @ weight[:, :5].T + event_type @ weight[:, 5:8].T + dense @ weight[:, 8:].T
    expected = torch.nn.functional.layer_norm(total + module.projection.bias, (8,))
    torch.testing.assert_close(module((item, event_type), dense), expected)


def test_parameters_equal_the_closed_form():
    config = ranker_config(history=history_config(num_summary_tokens=5))
    for module, formula in (
        (EventEmbedding(config), events),
        (TargetAttention(config), target_attention),
    ):
        assert formula.num_parameters(config) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("rows_per_event", [1, 4])
def test_flops_equal_the_closed_form_without_padding(rows_per_event):
    config = ranker_config()
    embedding, module = EventEmbedding(config), TargetAttention(config)
    segments = 16 // rows_per_event
    rows = tuple((row % segments, 6) for row in range(16))
    history = make_batch(config, (6,) * segments, rows=rows).history
    num_events = 6 * segments
    columns = torch.randn(num_events, 5), torch.randn(num_events, 3)
    tokens = torch.randn(16, config.num_feature_tokens, 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(tokens, embedding(columns, torch.randn(num_events, 2)), history)
    shared = events.flops(config) + target_attention.flops_per_event(config)
    expected = num_events * shared + 16 * target_attention.flops_per_row(config, num_events=6)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
