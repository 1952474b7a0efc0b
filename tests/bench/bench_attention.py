"""Attention over jagged timelines against the same timelines padded: forward and backward (E10).

Goals, set before the first run. On one H100 or H200, in bf16, on Zipf lengths to 4,096 with a mean
fill of about a quarter: `attend` at least 3 times as fast as padded flash attention and 5 times as
fast as dense masked mathematics, in at most half the memory of the first and a tenth of the
second's, within 1e-2 of single precision. On a CPU: at least 1.3 times as fast as padded masked
attention, within 1e-4.

Arms: `attend` is what the models call (FlexAttention on CUDA, buckets on a CPU); `bucketed` are the
buckets on either; `varlen` is torch's own kernel for offsets, where it is there; `padded_flash`
pads to the longest timeline and is causal without a mask; `padded_masked` pads and is given a mask;
`dense` has all scores in memory. Each owns its inputs in the form that it reads, so that padding is
not timed. The plan of the windows, made once a batch for all layers, is timed apart. What the arms
give, and their gradients, is compared with a slow form in single precision before anything is
timed. Then arms run one after the other, round after round. FLOPs are those of pairs
that are read, times 3 for forward and backward, whatever an arm really computes.

Prints one line of JSON per cell; cells that the seconds do not reach read "not run".

    python -m tests.bench.bench_attention --seconds 60
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.attention import attend
from model.attention.bucketed import bucketed_attention
from model.attention.windows import Windows
from tests.bench.ratios import ratio

ZIPF_EXPONENT = 2 / 3
"""Of lengths on 1 … N: their mean is N / 4."""
GOALS = {
    "cuda": {"padded_flash": 3.0, "padded_masked": None, "dense": 5.0},
    "cpu": {"padded_flash": None, "padded_masked": 1.3, "dense": None},
}
TOLERANCES = {torch.bfloat16: 1e-2, torch.float32: 1e-4}
"""Largest difference from the slow form, as a share of its largest value."""
MIN_ROUNDS, MAX_ROUNDS = 3, 40
CALLS = {"cuda": 4, "cpu": 1}
"""Calls in one timed round, so that a GPU is never waited for in between."""


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    head_dim: int
    window: int | None
    """Keys that a query reads at most, itself included; None for all before it."""


@dataclass(frozen=True)
class Arm:
    """One way to compute it.

    Args:
        run: Attention of queries, keys and values in the arm's form.
        inputs: Those, and the direction of the gradient.
        jagged: From the arm's form to values without padding.
    """

    run: Callable[..., Tensor]
    inputs: Sequence[Tensor]
    jagged: Callable[[Tensor], Tensor]

    def step(self) -> list[Tensor]:
        """Forward and backward.

        Returns:
            The output and the gradients of queries, keys and values.
        """
        leaves = [x.detach().requires_grad_() for x in self.inputs[:3]]
        output = self.run(*leaves)
        return [output.detach(), *torch.autograd.grad(output, leaves, self.inputs[3])]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--seconds", type=float, default=60.0, help="for all cells together")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--longest", type=int, default=4096 if on_gpu else 512)
    parser.add_argument("--heads", type=int, default=8 if on_gpu else 2)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        torch.set_num_threads(1)
    dims = (64, 128) if on_gpu else (16, 32)
    window = max(1, options.longest // 16)
    cells = [Cell(dims[0], None), Cell(dims[1], None), Cell(dims[0], window)]
    lengths = zipf_lengths(options.users, options.longest)
    until = time.perf_counter() + options.seconds
    for index, cell in enumerate(cells):
        began = time.perf_counter()
        found: dict[str, Any] = {"not run": "no seconds left"}
        if index == 0 or began < until:
            share = (until - began) / (len(cells) - index)
            found = measure(cell, lengths, options.heads, device, began + share)
        report(cell, lengths, options.heads, device, found)


def zipf_lengths(num_users: int, longest: int) -> list[int]:
    """Lengths at evenly spread quantiles of Zipf's law on 1 … N, so that no seed decides the fill.

    The longest is N.
    """
    weights = torch.arange(1, longest + 1, dtype=torch.float64) ** -ZIPF_EXPONENT
    shares = weights.cumsum(0) / weights.sum()
    places = (torch.arange(num_users, dtype=torch.float64) + 0.5) / num_users
    lengths = (torch.searchsorted(shares, places) + 1).tolist()
    # In an order that is not sorted, as users come.
    lengths = [*lengths[1::2], *lengths[::2]]
    lengths[lengths.index(max(lengths))] = longest
    return lengths


def measure(
    cell: Cell, lengths: list[int], num_heads: int, device: torch.device, until: float
) -> dict[str, Any]:
    """Compares, then times, all arms of a cell."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), num_heads, cell.head_dim)
    tokens = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4)]
    expected = slow_form(tokens, lengths, cell.window)
    arms = build_arms(cell, tokens, lengths)
    errors, left_out = {}, {}
    began = time.perf_counter()
    for name, arm in list(arms.items()):
        try:
            errors[name] = largest_error(arm, expected)
        except torch.cuda.OutOfMemoryError:
            left_out[name] = "out of memory"
            del arms[name]
    warm_up = time.perf_counter() - began
    if wrong := {name: e for name, e in errors.items() if e > TOLERANCES[dtype]}:
        raise ValueError(
            f"arms that differ are not compared; found {wrong}, more than {TOLERANCES[dtype]:.0e} "
            f"of the largest value, at {cell}"
        )
    del expected
    memory = {name: peak_bytes(arm, device) for name, arm in arms.items()}
    times = timed(arms, device, until)
    flops = 3 * 4 * cell.head_dim * num_heads * num_pairs(lengths, cell.window)
    goals = GOALS[device.type] if cell.window is None else {}
    return {
        "num_rounds": len(times["attend"]),
        "warm_up_seconds": round(warm_up, 1),
        "plan_milliseconds": plan_milliseconds(cell, lengths, device),
        "arms": {
            name: {
                "median_milliseconds": round(1e3 * statistics.median(found), 3),
                "tflops_of_read_pairs": float(f"{flops / statistics.median(found) / 1e12:.3g}"),
                "peak_bytes": memory[name],
                "largest_error": float(f"{errors[name]:.2g}"),
            }
            for name, found in times.items()
        },
        "left_out": left_out,
        "times_as_long_as_attend": {
            name: asdict(ratio(found, times["attend"])) | {"goal": goals.get(name)}
            for name, found in times.items()
            if name != "attend"
        },
    }


def build_arms(cell: Cell, tokens: list[Tensor], lengths: list[int]) -> dict[str, Arm]:
    """All arms that can compute a cell on the tokens' device."""
    device = tokens[0].device
    windows = make_windows(cell, lengths, device)
    row, place = (x.to(device) for x in places(lengths))
    longest = max(lengths)

    def pad(values: Tensor) -> Tensor:
        block = values.new_zeros(len(lengths), longest, *values.shape[1:])
        block[row, place] = values
        return block.transpose(1, 2).contiguous()

    padded = [pad(x) for x in tokens]
    at = torch.arange(longest, device=device)
    near = at[:, None] - at < (cell.window or longest)
    mask = (at[:, None] >= at) & near & (at < torch.tensor(lengths, device=device)[:, None, None])
    mask = mask[:, None]  # B 1 L L
    # A padded query reads its first key: a row without any would be NaN in dense mathematics.
    mask[..., 0] |= ~mask.any(-1)

    def arm_of_padded(run: Callable[..., Tensor]) -> Arm:
        return Arm(run, padded, lambda x: x.transpose(1, 2)[row, place])

    def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    arms = {
        "attend": Arm(lambda q, k, v: attend(q, k, v, windows), tokens, torch.clone),
        "bucketed": Arm(lambda q, k, v: bucketed_attention(q, k, v, windows), tokens, torch.clone),
        "padded_masked": arm_of_padded(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        ),
        "dense": arm_of_padded(dense),
    }
    if device.type == "cpu":
        # There `attend` is the buckets.
        del arms["bucketed"]
    if cell.window is None:
        arms["padded_flash"] = arm_of_padded(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        )
    if device.type == "cuda":
        arms["varlen"] = Arm(varlen(cell, windows, longest), tokens, torch.clone)
    return arms


def varlen(cell: Cell, windows: Windows, longest: int) -> Callable[..., Tensor]:
    """Torch's kernel for offsets."""
    from torch.nn.attention.varlen import varlen_attn

    offsets = windows.key_offsets.int()
    back = -1 if cell.window is None else cell.window - 1

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return varlen_attn(
            query, key, value, offsets, offsets, longest, longest, window_size=(back, 0)
        )

    return run


def make_windows(cell: Cell, lengths: list[int], device: torch.device) -> Windows:
    """Causal windows of all timelines."""
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
    return Windows.causal(offsets, cell.window)


def places(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Timeline of each token, and its place in it."""
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return row, torch.cat([torch.arange(n) for n in lengths])


def slow_form(tokens: list[Tensor], lengths: list[int], window: int | None) -> list[Tensor]:
    """Output and gradients, timeline after timeline, with all scores in single precision."""
    leaves = [x.detach().float().requires_grad_() for x in tokens[:3]]
    direction, first, outputs = tokens[3].float(), 0, []
    for length in lengths:
        query, key, value = (x[first : first + length].transpose(0, 1) for x in leaves)
        scores = query @ key.transpose(1, 2) * query.shape[2] ** -0.5  # H L L
        gap = torch.arange(length, device=query.device)
        gap = gap[:, None] - gap
        is_read = (gap >= 0) & (gap < (window or length))
        outputs.append(scores.masked_fill(~is_read, -torch.inf).softmax(-1) @ value)
        first += length
    output = torch.cat([x.transpose(0, 1) for x in outputs])
    return [output.detach(), *torch.autograd.grad(output, leaves, direction)]


def largest_error(arm: Arm, expected: list[Tensor]) -> float:
    """Largest difference from the slow form, of output or gradients, as a share of its largest."""
    found = [arm.jagged(x).float() for x in arm.step()]
    return max(
        float((a - e).abs().max() / e.abs().max()) for a, e in zip(found, expected, strict=True)
    )


def peak_bytes(arm: Arm, device: torch.device) -> int | None:
    """Memory that a step takes at most beside its inputs, and they; None on a CPU."""
    if device.type == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    arm.step()
    own = sum(x.numel() * x.element_size() for x in arm.inputs[:3])
    return torch.cuda.max_memory_allocated() - before + own


def timed(arms: dict[str, Arm], device: torch.device, until: float) -> dict[str, list[float]]:
    """Seconds of a step, arm after arm, in rounds until the time is up."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    calls = CALLS[device.type]
    for index in range(MAX_ROUNDS):
        if index >= MIN_ROUNDS and time.perf_counter() > until:
            break
        for name, arm in arms.items():
            synchronise(device)
            start = time.perf_counter()
            for _ in range(calls):
                arm.step()
            synchronise(device)
            found[name].append((time.perf_counter() - start) / calls)
    return found


def plan_milliseconds(cell: Cell, lengths: list[int], device: torch.device) -> float:
    """What the windows of a batch take, once for all layers that read them: median of five."""
    found = []
    for _ in range(5):
        windows = make_windows(cell, lengths, device)
        synchronise(device)
        start = time.perf_counter()
        if device.type == "cuda":
            assert windows.unread is None
            _ = windows.block_mask
        else:
            _ = windows.buckets
        synchronise(device)
        found.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(found), 3)


def synchronise(device: torch.device) -> None:
    """Waits for the GPU, where there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def num_pairs(lengths: list[int], window: int | None) -> int:
    """Pairs of a query and a key that it reads."""
    widths = [(n, min(n, window or n)) for n in lengths]
    return sum(w * (w + 1) // 2 + (n - w) * w for n, w in widths)


def report(
    cell: Cell, lengths: list[int], num_heads: int, device: torch.device, found: dict[str, Any]
) -> None:
    """Prints a cell as one line, with what it was measured on."""
    fills = torch.tensor(lengths, dtype=torch.float64) / max(lengths)
    line = {
        "bench": "attention",
        **asdict(cell),
        "num_heads": num_heads,
        "num_users": len(lengths),
        "longest": max(lengths),
        "mean_fill": round(float(fills.mean()), 3),
        "mean_squared_fill": round(float(fills.square().mean()), 3),
        **found,
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "torch": torch.__version__,
        },
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
