"""From the shared representation to log-odds: serving heads, auxiliary heads, student adapter."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot

from model.config import RankerConfig
from model.distillation.config import DistillationConfig
from model.mlp import mlp_flops, mlp_num_parameters

LOGIT_EPSILON = 1e-6
"""Teacher probabilities are kept this far from 0 and 1 before they become log-odds."""


class StackedMLP(nn.Module):
    """One MLP per task, all of one shape, applied by one batched product per layer.

    x_{i+1, t} = ReLU(x_{i, t} W_{i, t} + b_{i, t}), and the last layer without the ReLU.

    Paper: none.
    Differs: none.

    Args:
        num_tasks: MLPs in the stack (Y).
        widths: Input width, hidden widths, output width.
    """

    def __init__(self, num_tasks: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for width_in, width_out in pairwise(widths):
            bound = width_in**-0.5
            weight = torch.empty(num_tasks, width_in, width_out).uniform_(-bound, bound)
            self.weights.append(weight)
            self.biases.append(torch.zeros(num_tasks, 1, width_out))

    def forward(self, inputs: Float[Tensor, "Y B width_in"]) -> Float[Tensor, "Y B width_out"]:
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            outputs = torch.baddbmm(bias, inputs, weight)
            inputs = outputs.relu() if i < last else outputs
        return inputs


class DomainTaskHeads(nn.Module):
    """One MLP per domain and task; a row is scored by the heads of its own domain only.

    z_bt = MLP_{domain(b), t}(r_b), natural log-odds;  or with `domain_heads = "final_layer"`
    z_bt = w_{domain(b), t}ᵀ ReLU(MLP_t(r_b)) + c_{domain(b), t}

    Paper: Wukong, section 3.3 (final MLP); ExFM (arXiv 2502.17494), task heads; Lattice (arXiv
        2512.09200), untied parameters where domains conflict.
    Differs: a head, or a final layer, per domain and task, where the papers show one per task.

    Args:
        config: Shape of the ranker.
        num_tasks: Outputs of each domain (Y); those of the config if left out.
    """

    def __init__(self, config: RankerConfig, num_tasks: int | None = None) -> None:
        super().__init__()
        self.num_tasks = num_tasks or len(config.tasks)
        shared, own = _head_widths(config)
        self.shared = StackedMLP(self.num_tasks, shared) if shared else None
        self.domains = nn.ModuleList(StackedMLP(self.num_tasks, own) for _ in config.domains)

    @torch.no_grad()
    def set_prior(self, domain_task_rates: Float[Tensor, "P Y"]) -> None:
        """Sets the output biases to the log-odds of the base rates.

        Args:
            domain_task_rates: Share of positives of each domain (P) and task.

        Raises:
            ValueError: If a rate is not strictly between 0 and 1.
        """
        if not bool(((domain_task_rates > 0) & (domain_task_rates < 1)).all()):
            raise ValueError(
                "domain_task_rates: rates must lie strictly between 0 and 1; found "
                f"{domain_task_rates.tolist()}; smooth the counts of rare outcomes first"
            )
        for heads, rates in zip(self.domains, domain_task_rates, strict=True):
            assert isinstance(heads, StackedMLP)
            heads.biases[-1].copy_(torch.logit(rates)[:, None, None])

    def forward(
        self, representation: Float[Tensor, "B R"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B Y"]:
        if len(self.domains) == 1:
            # Nothing to sort, so that no copy of the representation is made.
            rows = representation.expand(self.num_tasks, -1, -1)
            rows = rows if self.shared is None else self.shared(rows).relu()
            return self.domains[0](rows).squeeze(-1).T
        order = domain.argsort(stable=True)
        sizes = one_hot(domain, len(self.domains)).sum(0).tolist()
        rows = representation.index_select(0, order).expand(self.num_tasks, -1, -1)
        if self.shared is not None:
            rows = self.shared(rows).relu()
        groups = rows.split(sizes, dim=1)
        logits = torch.cat(
            [heads(group).squeeze(-1) for heads, group in zip(self.domains, groups, strict=True)],
            dim=1,
        )  # Y B
        return logits.T.index_select(0, order.argsort())


class ZipperHeads(nn.Module):
    """A set of heads for every attribution window; that of the longest is served.

    z_bk = heads_k(r_b), k over the windows, the longest last

    Labels of a short window come early, those of a long one late and complete. The backbone learns
    from all, each impression through the heads of its assigned window alone: see `zipper_logits`.

    Paper: Lattice (arXiv 2512.09200), Zipper.
    Differs: the paper's digest has one head per window; here it is one per window, domain and task.

    Args:
        config: Shape of the ranker.
        num_windows: Attribution windows (K).
    """

    def __init__(self, config: RankerConfig, num_windows: int) -> None:
        super().__init__()
        self.windows = nn.ModuleList(DomainTaskHeads(config) for _ in range(num_windows))

    def set_prior(self, window_domain_task_rates: Float[Tensor, "K P Y"]) -> None:
        """Starts each window's heads at its base rates; see `DomainTaskHeads.set_prior`."""
        for heads, rates in zip(self.windows, window_domain_task_rates, strict=True):
            assert isinstance(heads, DomainTaskHeads)
            heads.set_prior(rates)

    def forward(
        self, representation: Float[Tensor, "B R"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B K Y"]:
        return torch.stack([heads(representation, domain) for heads in self.windows], dim=1)

    def served(
        self, representation: Float[Tensor, "B R"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B Y"]:
        """Log-odds within the longest window."""
        return self.windows[-1](representation, domain)


def zipper_logits(
    logits: Float[Tensor, "B K Y"], window: Int64[Tensor, "B Y"]
) -> Float[Tensor, "B Y"]:
    """The log-odds that a row's label teaches: those of its assigned window, task by task.

    z_bt = z_{b, k(b, t), t};  every label trains one head once, and no row counts twice

    Paper: Lattice, Zipper.
    Differs: none.

    Args:
        logits: Log-odds of all windows, from `ZipperHeads`.
        window: Window that the hash assigned to a row, per task.
    """
    return logits.gather(1, window[:, None, :]).squeeze(1)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.scale * gradients[0], None


def scale_gradient(inputs: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """Passes the inputs on unchanged, and their gradient multiplied.

    forward x,  backward β · g

    Paper: ExFM, gradient scaling of the auxiliary head.
    Differs: none.
    """
    return _ScaleGradient.apply(inputs, scale)  # pyright: ignore[reportReturnType]


class AuxiliaryHead(nn.Module):
    """Heads for soft labels on the shared representation; they are not served.

    z_D = heads(r), the gradient into r multiplied by β

    A biased teacher moves the biases of these heads and never those of the serving heads.

    Paper: ExFM, auxiliary head.
    Differs: none.
    """

    def __init__(self, config: RankerConfig, gradient_scale: float) -> None:
        super().__init__()
        self.gradient_scale = gradient_scale
        self.heads = DomainTaskHeads(config)

    def forward(
        self, representation: Float[Tensor, "B R"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B Y"]:
        return self.heads(scale_gradient(representation, self.gradient_scale), domain)


class StudentAdapter(nn.Module):
    """Corrects the teacher towards the student's own, newest labels.

    z_SA = logit(ŷ_F) + MLP_t([logit(ŷ_F); onehot(domain)])

    The last layer starts at zero, so that the first soft labels are the teacher's own. The teacher
    is detached here: no gradient ever leaves towards it.

    Paper: ExFM, student adapter.
    Differs: the paper's MLP maps ŷ_F to ŷ_SA; the log-odds input, the residual, the zero start and
        the domain are ours. One MLP per task, so that a task without a score spoils no other.
    """

    def __init__(self, config: RankerConfig, distillation: DistillationConfig) -> None:
        super().__init__()
        self.num_domains = len(config.domains)
        self.mlp = StackedMLP(
            len(config.tasks), (1 + self.num_domains, *distillation.adapter_hidden, 1)
        )
        nn.init.zeros_(self.mlp.weights[-1])

    def forward(
        self, teacher: Float[Tensor, "B Y"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B Y"]:
        """Adapts probabilities of the teacher; where one is missing (NaN), so is the result."""
        logits = torch.logit(teacher.detach(), eps=LOGIT_EPSILON)
        # A NaN input would reach the weights through the ReLU's zero gradient (0 · NaN).
        known = logits.nan_to_num(0.0).T.unsqueeze(-1)  # Y B 1
        domains = one_hot(domain, self.num_domains).to(logits.dtype)
        inputs = torch.cat([known, domains.expand(len(known), -1, -1)], dim=-1)
        return logits + self.mlp(inputs).squeeze(-1).T


def num_parameters(config: RankerConfig) -> int:
    """Parameters of `DomainTaskHeads`: for each task what is shared, and an MLP for each domain."""
    shared, own = _head_widths(config)
    per_task = mlp_num_parameters(shared) + len(config.domains) * mlp_num_parameters(own)
    return len(config.tasks) * per_task


def flops(config: RankerConfig) -> int:
    """Forward FLOPs of `DomainTaskHeads` for one row: one MLP for each task."""
    return len(config.tasks) * sum(mlp_flops(widths) for widths in _head_widths(config))


def _head_widths(config: RankerConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths of the layers that all domains share, none if empty, and of a domain's own."""
    widths = (config.representation_dim, *config.head_hidden, 1)
    return ((), widths) if config.domain_heads == "whole" else (widths[:-1], widths[-2:])
