"""ROTE: rotary encoding whose angle is a logarithm of time.

Paper: LLaTTE (arXiv 2601.20083) and Kunlun (arXiv 2602.10016), rotary temporal encoding.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

TIME_SCALE_SECONDS = 60.0
"""Shorter times are told apart by their length, longer ones by its logarithm (t_scale)."""
FREQUENCY_BASE = 100.0
"""The slowest pair of a head turns this many times more slowly than the fastest."""
_MICROSECONDS = 1e6


def log_time(microseconds: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """τ = log(1 + Δt / t_scale); a negative time counts as none."""
    return torch.log1p(microseconds.clamp(min=0).double() / (TIME_SCALE_SECONDS * _MICROSECONDS))


def rotate(x: Float[Tensor, "N H d"], tau: Float64[Tensor, " N"]) -> Float[Tensor, "N H d"]:
    """Turns the pairs (x_i, x_{i + d/2}) of each head by θ_i τ, θ_i = base^(−2i/d).

    ⟨rotate(q, τ_q), rotate(k, τ_k)⟩ depends on τ_q − τ_k alone, and norms stay as they are.

    Paper: LLaTTE and Kunlun, ROTE; rotary embedding (arXiv 2104.09864), section 3.2.
    Differs: base and time scale are ours.
    """
    half = x.shape[-1] // 2
    index = torch.arange(half, device=x.device, dtype=torch.float64)
    # Angles in double precision: a long clock would lose its fraction in single precision.
    angle = tau[:, None, None] * FREQUENCY_BASE ** (-index / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)  # N 1 d/2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
