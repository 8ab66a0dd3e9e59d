"""Random numbers as a pure function of a key and a counter: the splitmix64 generator (Steele, Lea, Flood 2014)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Constants of splitmix64, as signed 64-bit integers.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MIX_2 = 0x94D049BB133111EB - (1 << 64)


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; every input bit changes every output bit with probability 1/2."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform(bits: Tensor) -> Tensor:
    """The upper 24 bits as float32 in [0, 1)."""
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def normal(keys_N: Tensor, *, count: int) -> Tensor:
    """`count` standard normal numbers a key, float32 [N, count], by Box and Muller."""
    half = (count + 1) // 2
    counter = torch.arange(1, half + 1, device=keys_N.device) * GOLDEN
    bits = mix(keys_N[:, None] + counter)
    radius = ((((bits >> 32) & 0xFFFFFFFF).float() + 1) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
