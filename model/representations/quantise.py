"""Numbers between −1 and 1 as integers of four or eight bits, packed into bytes.

Paper: LoopFM (arXiv 2605.29280), storage of compressed activations.
"""

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from model.representations.config import Bits


def quantise(values: Float[Tensor, "N V"], bits: Bits) -> Int8[Tensor, "N V"]:
    """The nearest integers.

    q = clip(round(z · 2^(b−1)), −2^(b−1), 2^(b−1) − 1),  INT4: clip(round(8 z), −8, 7)

    Paper: LoopFM, INT4.
    Differs: eight bits are ours.

    Raises:
        ValueError: If a number is not finite.
    """
    if not bool(values.isfinite().all()):
        raise ValueError(
            "quantise: a stored number is finite; found "
            f"{int((~values.isfinite()).sum())} that are not; leave such rows out"
        )
    half = 2 ** (bits - 1)
    return (values * half).round().clamp(-half, half - 1).to(torch.int8)


def dequantise(codes: Int8[Tensor, "N V"], bits: Bits) -> Float32[Tensor, "N V"]:
    """ẑ = q / 2^(b−1), off by at most 2^−b, and by 2^(1−b) at the clipped end near +1.

    Paper: LoopFM.
    Differs: none.
    """
    return codes.float() / 2 ** (bits - 1)


def packed_bytes(dim: int, bits: Bits) -> int:
    """Bytes of one packed vector: ⌈V b / 8⌉."""
    return -(-dim * bits // 8)


def pack(codes: Int8[Tensor, "N V"], bits: Bits) -> UInt8[Tensor, "N bytes"]:
    """Integers as bytes, of four bits two in a byte, the earlier one in the lower half.

    An odd one out has 0 beside it.

    Paper: none.
    Differs: none.
    """
    if bits == 8:
        return codes.view(torch.uint8)
    if codes.shape[1] % 2:
        codes = torch.cat([codes, codes.new_zeros(len(codes), 1)], dim=1)
    halves = codes.view(torch.uint8) & 0x0F  # two's complement
    return halves[:, 0::2] | (halves[:, 1::2] << 4)


def unpack(packed: UInt8[Tensor, "N bytes"], bits: Bits, dim: int) -> Int8[Tensor, "N V"]:
    """What `pack` was given.

    Args:
        packed: Bytes.
        bits: Bits of a number.
        dim: Numbers of a vector (V).

    Raises:
        ValueError: If a vector of so many numbers has another number of bytes.
    """
    if packed.shape[1] != packed_bytes(dim, bits):
        raise ValueError(
            f"unpack: {dim} numbers of {bits} bits are {packed_bytes(dim, bits)} bytes; found "
            f"{packed.shape[1]}; read them with the width and bits that they were written with"
        )
    if bits == 8:
        return packed.view(torch.int8)
    halves = torch.stack([packed & 0x0F, packed >> 4], dim=2).flatten(1)[:, :dim]
    signed = halves.to(torch.int8)
    return torch.where(signed > 7, signed - 16, signed)


def scaled(vectors: Float[Tensor, "N U"]) -> tuple[Float[Tensor, "N U"], Float[Tensor, " N"]]:
    """Vectors of any length brought between −1 and 1, each divided by its largest number.

    s_n = max_u |v_nu|;  a vector of zeros has scale 1

    Returns:
        What to quantise, and by what to multiply it afterwards.

    Paper: none; the usual symmetric quantisation.
    Differs: none.
    """
    scale = vectors.abs().amax(dim=1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return vectors / scale[:, None], scale
