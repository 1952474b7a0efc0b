"""Named networks, batches whose rows share timelines, and steps of learning."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from jobs.named_networks import NETWORKS, Size
from jobs.training.networks import ranker_config
from model.batch import Batch
from model.config import RankerConfig
from model.losses import task_loss
from model.optim import Optimizers
from model.ranker import Ranker
from tests.model.samples import make_batch

SIZE = Size(
    width=32,
    table_dim=16,
    num_layers=2,
    num_tokens=8,
    hidden=32,
    head_hidden=(16,),
    num_dense_tokens=2,
    num_recent_events=6,
)
LENGTHS = (12, 0, 3, 8, 1, 12, 7, 5)
"""Events of the timelines; every one has three rows, at cut-offs of their own."""
ROWS = tuple((u, n * cut // 4) for u, n in enumerate(LENGTHS) for cut in (2, 3, 4))
_MAX_EVENTS = 10

# What `jobs.training.inputs.InputSpec` says of the columns; that module needs pyarrow.
_SPEC: Any = SimpleNamespace(
    categorical=["user_id", "ad_id"],
    dense=["age", "price", "rate"],
    event_fields={"item": "ad_id", "surface": "surface", "event_type": "event_type"},
    num_event_dense=2,
    bags=[],
    table_rows={"user_id": 9, "ad_id": 20, "surface": 4, "event_type": 3},
)
_TIMELINE: Any = SimpleNamespace(num_events=_MAX_EVENTS)
_TASKS = ["click", "buy"]


def shape(name: str) -> RankerConfig:
    """A named network in small."""
    return ranker_config(NETWORKS[name](SIZE), _TIMELINE, _SPEC, ["blue", "red"], _TASKS)


def batch(config: RankerConfig, seed: int = 0) -> Batch:
    """Rows that share timelines, on the CPU."""
    return make_batch(config, LENGTHS, seed, ROWS)


def labels(seed: int = 0) -> torch.Tensor:
    """Labels of all rows and tasks, none of them masked."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (len(ROWS), len(_TASKS)), generator=generator).float()


def loss_of(model: Ranker, rows: Batch, targets: torch.Tensor) -> torch.Tensor:
    """The loss of all labels."""
    counts = torch.full((targets.shape[1],), float(len(targets)), device=targets.device)
    mask = torch.ones_like(targets, dtype=torch.bool)
    return task_loss(model(rows).logits.float(), targets, mask, counts)


class _AsOnCuda(TorchFunctionMode):
    """Autocast on a CPU keeps in half precision, and promotes, what it does not on CUDA."""

    functions = {F.layer_norm, F.softmax, torch.softmax, torch.exp, Tensor.exp, torch.cumsum}
    functions |= {Tensor.cumsum, torch.sum, Tensor.sum, torch.log1p, Tensor.log1p, F.softplus}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.functions and args[0].dtype == torch.bfloat16:
            args = (args[0].float(), *args[1:])
        if function is Tensor.index_copy and args[0].dtype != args[3].dtype:
            raise TypeError(f"index_copy: of one dtype, found {args[0].dtype} and {args[3].dtype}")
        return function(*args, **(kwargs or {}))


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Autocast to bfloat16 as CUDA has it, on a CPU too."""
    with torch.autocast(device.type, torch.bfloat16):
        if device.type == "cuda":
            yield
        else:
            with _AsOnCuda():
                yield


def step(model: Ranker, optimizers: Optimizers, rows: Batch, targets: torch.Tensor) -> float:
    """Learn all rows once.

    Returns:
        The loss before.
    """
    loss = loss_of(model, rows, targets)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()
