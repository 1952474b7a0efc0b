"""Heads of every domain and task, gradient scaling, and the student adapter."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

from model import heads
from model.heads import (
    AuxiliaryHead,
    DomainTaskHeads,
    StudentAdapter,
    ZipperHeads,
    scale_gradient,
    zipper_logits,
)
from tests.model.samples import distillation_config, ranker_config

DOMAIN = torch.tensor([1, 0, 1, 1, 0])


def make_heads():
    torch.manual_seed(0)
    return DomainTaskHeads(ranker_config()), torch.randn(5, 40)


def test_logits_equal_one_mlp_per_row_domain_and_task():
    module, representation = make_heads()
    expected = torch.empty(5, 3)
    for b in range(5):
        stack = module.domains[DOMAIN[b]]
        for t in range(3):
            hidden = torch.relu(representation[b] @ stack.weights[0][t] + stack.biases[0][t, 0])
            expected[b, t] = (hidden @ stack.weights[1][t] + stack.biases[1][t, 0])[0]
    torch.testing.assert_close(module(representation, DOMAIN), expected)


def test_rows_of_one_domain_give_no_gradient_to_the_heads_of_another():
    module, representation = make_heads()
    module(representation, torch.zeros_like(DOMAIN)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in module.domains[0].parameters())
    assert all(p.grad.abs().max() == 0 for p in module.domains[1].parameters())


def test_logits_follow_the_order_of_the_batch():
    module, representation = make_heads()
    order = torch.tensor([4, 2, 0, 3, 1])
    torch.testing.assert_close(
        module(representation[order], DOMAIN[order]), module(representation, DOMAIN)[order]
    )


@pytest.mark.parametrize("domain_heads", ["whole", "final_layer"])
def test_heads_of_a_single_domain_are_those_of_one_among_several(domain_heads):
    torch.manual_seed(0)
    several = DomainTaskHeads(ranker_config(domain_heads=domain_heads))
    single = DomainTaskHeads(ranker_config(domain_heads=domain_heads, domains=("feed",)))
    single.load_state_dict(several.state_dict(), strict=False)
    representation, domain = torch.randn(5, 40), torch.zeros_like(DOMAIN)
    found = []
    for module in (several, single):
        read = representation.clone().requires_grad_()
        logits = module(read, domain)
        logits.square().sum().backward()
        found.append([logits, read.grad, *(p.grad for p in module.domains[0].parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_prior_moves_the_mean_prediction_to_the_base_rate():
    module, _ = make_heads()
    rates = torch.tensor([[0.1, 0.02, 0.5], [0.3, 0.001, 0.9]])
    module.set_prior(rates)
    probabilities = torch.sigmoid(module(torch.zeros(5, 40), DOMAIN))
    torch.testing.assert_close(probabilities, rates[DOMAIN])


@pytest.mark.parametrize("rate", [0.0, 1.0, float("nan")])
def test_prior_without_finite_log_odds_is_refused(rate):
    module, _ = make_heads()
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        module.set_prior(torch.tensor([[rate, 0.1, 0.1], [0.1, 0.1, 0.1]]))


def test_parameters_and_flops_equal_the_closed_forms():
    config = ranker_config()
    module, representation = make_heads()
    assert heads.num_parameters(config) == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module(representation, DOMAIN)
    assert counter.get_total_flops() == pytest.approx(5 * heads.flops(config), rel=0.02)


def test_final_layer_of_a_domain_stands_on_layers_that_all_share():
    config = ranker_config(domain_heads="final_layer", head_hidden=(9, 4))
    torch.manual_seed(0)
    module, representation = DomainTaskHeads(config), torch.randn(5, 40)
    expected = torch.empty(5, 3)
    for b in range(5):
        own = module.domains[DOMAIN[b]]
        for t in range(3):
            hidden = representation[b]
            for i in range(2):
                weight, bias = module.shared.weights[i][t], module.shared.biases[i][t, 0]
                hidden = torch.relu(hidden @ weight + bias)
            expected[b, t] = (hidden @ own.weights[0][t] + own.biases[0][t, 0])[0]
    torch.testing.assert_close(module(representation, DOMAIN), expected)
    assert heads.num_parameters(config) == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        module(representation, DOMAIN)
    assert counter.get_total_flops() == pytest.approx(5 * heads.flops(config), rel=0.02)
    module.set_prior(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    found = module.domains[1].biases[0].flatten().sigmoid()
    torch.testing.assert_close(found, torch.tensor([0.4, 0.5, 0.6]))


def test_a_domain_moves_the_shared_layers_and_its_own_final_one():
    config = ranker_config(domain_heads="final_layer")
    module = DomainTaskHeads(config)
    module(torch.randn(5, 40), torch.zeros_like(DOMAIN)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in module.shared.parameters())
    assert all(p.grad.abs().max() == 0 for p in module.domains[1].parameters())


def test_a_final_layer_without_hidden_layers_is_refused():
    with pytest.raises(ValueError, match="needs hidden layers to share"):
        ranker_config(domain_heads="final_layer", head_hidden=())


def test_a_label_trains_the_heads_of_its_window_alone():
    torch.manual_seed(0)
    module, representation = ZipperHeads(ranker_config(), 3), torch.randn(5, 40)
    logits = module(representation, DOMAIN)
    window = torch.tensor([[0, 2, 0]] * 5)
    chosen = zipper_logits(logits, window)
    for task, k in ((0, 0), (1, 2), (2, 0)):
        expected = module.windows[k](representation, DOMAIN)[:, task]
        torch.testing.assert_close(chosen[:, task], expected)
    chosen.sum().backward()
    for k, tasks in ((0, {0, 2}), (1, set()), (2, {1})):
        gradient = module.windows[k].domains[0].weights[0].grad
        assert {t for t in range(3) if gradient[t].abs().max() > 0} == tasks


def test_each_row_has_a_window_of_its_own_and_the_longest_is_served():
    torch.manual_seed(0)
    module, representation = ZipperHeads(ranker_config(), 2), torch.randn(5, 40)
    logits = module(representation, DOMAIN)
    window = torch.tensor([0, 1, 1, 0, 1])[:, None].expand(-1, 3)
    chosen = zipper_logits(logits, window)
    for b, k in enumerate([0, 1, 1, 0, 1]):
        assert torch.equal(chosen[b], logits[b, k])
    assert torch.equal(module.served(representation, DOMAIN), logits[:, 1])
    module.set_prior(torch.tensor([[[0.1] * 3] * 2, [[0.3] * 3] * 2]))
    served = module.served(torch.zeros(5, 40), DOMAIN).sigmoid()
    torch.testing.assert_close(served, torch.full((5, 3), 0.3))


def test_scaled_gradient_keeps_the_value_and_multiplies_the_gradient():
    inputs = torch.tensor([1.0, -2.0], requires_grad=True)
    outputs = scale_gradient(inputs, 3.0)
    outputs.square().sum().backward()
    assert outputs.tolist() == [1.0, -2.0]
    assert inputs.grad.tolist() == [6.0, -12.0]


def test_auxiliary_head_scales_the_gradient_of_the_backbone_and_not_its_own():
    gradients = {}
    for beta in (1.0, 20.0):
        torch.manual_seed(0)
        module = AuxiliaryHead(ranker_config(), gradient_scale=beta)
        representation = torch.ones(5, 40, requires_grad=True)
        module(representation, DOMAIN).square().sum().backward()
        own = module.heads.domains[0].weights[0].grad
        gradients[beta] = (representation.grad, own)
    torch.testing.assert_close(gradients[20.0][0], 20.0 * gradients[1.0][0])
    torch.testing.assert_close(gradients[20.0][1], gradients[1.0][1])


def make_adapter():
    torch.manual_seed(0)
    return StudentAdapter(ranker_config(), distillation_config(adapter=True))


def test_fresh_adapter_returns_the_log_odds_of_the_teacher():
    teacher = torch.tensor([[0.5, 0.9, 0.1]] * 5)
    expected = torch.tensor([[0.0, 2.1972246, -2.1972246]] * 5)
    torch.testing.assert_close(make_adapter()(teacher, DOMAIN), expected)


def test_certain_teacher_gives_finite_log_odds():
    adapted = make_adapter()(torch.tensor([[0.0, 1.0, 0.5]] * 5), DOMAIN)
    torch.testing.assert_close(adapted[0], torch.tensor([-13.8155, 13.8155, 0.0]), atol=0.1, rtol=0)


def test_missing_score_stays_missing_and_spoils_no_other_task_or_gradient():
    module = make_adapter()
    torch.nn.init.normal_(module.mlp.weights[-1])
    full = torch.rand(5, 3) * 0.8 + 0.1
    holed = full.clone()
    holed[2, 1] = torch.nan
    adapted = module(holed, DOMAIN)
    known = ~holed.isnan()
    assert adapted.isnan().tolist() == (~known).tolist()
    torch.testing.assert_close(adapted[known], module(full, DOMAIN)[known])
    adapted[known].sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_adapter_learns_the_bias_of_the_teacher_in_one_domain():
    module = make_adapter()
    domain = torch.arange(2).repeat(200)
    teacher = torch.full((400, 3), 0.5)
    labels = torch.where(domain[:, None] == 0, 0.5, 0.2).expand(-1, 3)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(150):
        loss = binary_cross_entropy_with_logits(module(teacher, domain), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    adapted = torch.sigmoid(module(teacher, domain))
    torch.testing.assert_close(adapted, labels, atol=0.02, rtol=0.0)
