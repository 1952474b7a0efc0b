"""Optimisers of a ranker: Adam for dense weights, row-wise AdaGrad for embedding tables.

Paper: Wukong (arXiv 2403.02545), section 4 (both optimisers, linear warm-up).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag
from torch.optim import AdamW, Optimizer

from model.config import TableConfig
from model.embeddings import EmbeddingTables, weight_key

EPSILON = 1e-8
"""Keeps the first step of a row with a tiny gradient finite."""


class RowWiseAdagrad(Optimizer):
    """AdaGrad with one accumulator per embedding row.

    s_i ← s_i + mean_j g_ij²,  E_i ← E_i − lr · g_i / (√s_i + ε);  rows without gradient stay

    Paper: Wukong, section 4.1 (row-wise AdaGrad for sparse weights).
    Differs: none.

    Args:
        named_parameters: Names and two-dimensional tables, with sparse or dense gradients.
        lr: Learning rate.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], lr: float) -> None:
        super().__init__(named_parameters, {"lr": lr})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table]["sum"] = torch.zeros_like(table[:, 0])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Takes one step on every table that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    _update(table, table.grad, self.state[table]["sum"], group["lr"])
        return loss


def _update(table: Tensor, gradient: Tensor, accumulator: Tensor, lr: float) -> None:
    if gradient.is_sparse:
        rows, values = _summed(gradient)
        sums = accumulator.index_select(0, rows) + values.square().mean(1)
        accumulator[rows] = sums
        steps = values / (sums.sqrt() + EPSILON)[:, None]
        # Not `index_add_`, which on a CPU goes row by row: these rows are distinct.
        table[rows] = torch.sub(table.index_select(0, rows), steps, alpha=lr)
    else:
        accumulator += gradient.square().mean(1)
        table.addcdiv_(gradient, (accumulator.sqrt() + EPSILON)[:, None], value=-lr)


def _summed(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that a sparse gradient names, each once and ascending, and their summed gradients.

    A row that occurs twice in the batch has one gradient, the sum in the batch's order.
    """
    if gradient.device.type != "cpu":
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    # What coalescing does, in half the time.
    named, order = gradient._indices()[0].sort(stable=True)
    rows, counts = named.unique_consecutive(return_counts=True)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values = embedding_bag(order, gradient._values(), offsets, mode="sum", include_last_offset=True)
    return rows, values


class Optimizers(NamedTuple):
    """The two optimisers of one model; both step after every batch."""

    dense: AdamW
    sparse: RowWiseAdagrad


def build_optimizers(
    model: nn.Module, lr_dense: float, lr_sparse: float, weight_decay: float = 0.0
) -> Optimizers:
    """Gives the embedding tables to row-wise AdaGrad and everything else to AdamW.

    Args:
        model: A ranker, a student, or anything that contains one set of tables.
        lr_dense: Learning rate of AdamW.
        lr_sparse: Learning rate of row-wise AdaGrad.
        weight_decay: Decoupled decay of dense weights; biases, norms and tables have none.
    """
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, EmbeddingTables)
        for parameter in module.parameters()
    }
    sparse, decayed, kept = [], [], []
    for name, parameter in model.named_parameters():
        if id(parameter) in tables:
            sparse.append((name, parameter))
        elif parameter.ndim >= 2 and "bias" not in name:
            decayed.append((name, parameter))
        else:
            kept.append((name, parameter))
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return Optimizers(AdamW(groups, lr=lr_dense, fused=True), RowWiseAdagrad(sparse, lr=lr_sparse))


def extend_optimizer_state(
    state_dict: dict[str, Any], tables: Sequence[TableConfig]
) -> dict[str, Any]:
    """Grows a row-wise AdaGrad state to a newer vocabulary; new rows start with zero sums.

    Args:
        state_dict: `RowWiseAdagrad.state_dict()` of the parent.
        tables: The tables as the newer vocabulary has them.

    Returns:
        The same state with grown accumulators, to be loaded for the tables of `extend_tables`.

    Raises:
        ValueError: If a table has no state, or would lose rows.
    """
    (group,) = state_dict["param_groups"]
    state = dict(state_dict["state"])
    for table in tables:
        matches = [
            index
            for index, name in zip(group["params"], group["param_names"], strict=True)
            if name.endswith(weight_key(table.name))
        ]
        if len(matches) != 1 or len(state[matches[0]]["sum"]) > table.num_rows:
            sizes = [len(state[index]["sum"]) for index in matches]
            raise ValueError(
                f"tables.{table.name}: the state must hold the table once, with at most "
                f"{table.num_rows} rows; found tables of {sizes} rows; "
                "load the optimiser state that was saved with the checkpoint"
            )
        sums = state[matches[0]]["sum"]
        added = sums.new_zeros(table.num_rows - len(sums))
        state[matches[0]] = {"sum": torch.cat([sums, added])}
    return {**state_dict, "state": state}


def forget_optimizer_state(
    state_dict: dict[str, Any], rows: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Sets the sums of rows to zero, as those of new rows are.

    Args:
        state_dict: `RowWiseAdagrad.state_dict()`.
        rows: Rows by table; tables that the state lacks are passed over.

    Returns:
        The same state with those sums changed in copies.
    """
    (group,) = state_dict["param_groups"]
    state = dict(state_dict["state"])
    for index, name in zip(group["params"], group["param_names"], strict=True):
        for table, at in rows.items():
            if name.endswith(weight_key(table)):
                sums = state[index]["sum"].clone()
                sums[list(at)] = 0.0
                state[index] = {"sum": sums}
    return {**state_dict, "state": state}


class WeightAverage:
    """Exponential moving average of the dense weights, which is what is scored and served.

    θ̄ ← d θ̄ + (1 − d) θ,  d = min(exp(−1 / h), (1 + i) / (10 + i)) at step i

    With a constant learning rate the weights of the last steps follow the last rows; their average
    does not. Embedding tables are left as they are: few of their rows change in a step.

    Paper: Polyak and Juditsky (1992), averaging of iterates.
    Differs: exponential instead of uniform, so that a warm-started chain forgets.

    Args:
        model: A ranker or a student.
        horizon_steps: Steps over which the average reaches back (h).
    """

    def __init__(self, model: nn.Module, horizon_steps: float) -> None:
        self.decay = math.exp(-1.0 / horizon_steps)
        tables = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, EmbeddingTables)
            for parameter in module.parameters()
        }
        self._weights = {n: p for n, p in model.named_parameters() if id(p) not in tables}
        self.averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after a step, counted from 0 over the model's whole life."""
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        averages: list[torch.Tensor] = list(self.averages.values())
        weights: list[torch.Tensor] = list(self._weights.values())
        torch._foreach_lerp_(averages, weights, share)  # pyright: ignore[reportPrivateImportUsage]
