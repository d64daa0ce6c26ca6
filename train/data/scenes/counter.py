"""Random numbers as a pure function of (seed, split, index, name, position): a counter-based integer hash.

A generator object per image would be slow and a generator per batch would make an image depend on its batch. Here every
number is a hash of what it is for, so that image ``i`` is the same alone, in any batch and on any device.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def mix(x: Tensor) -> Tensor:
    """Return a 32-bit hash of each element (int64 tensors holding 0 .. 2**32 - 1, any shape).

    Two rounds of xorshift-multiply with the low-bias constants found by C. Wellons' hash prospector; both are below
    2**31, so that no int64 product overflows.
    """
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


class Draw:
    """Named random draws of a batch of scenes; every draw has the batch as its first dimension."""

    def __init__(self, seed: int, split: str, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        index = torch.tensor(list(indices), dtype=torch.int64, device=self.device)
        start = torch.full_like(index, zlib.crc32(split.encode()))
        for word in (seed & _MASK, (seed >> 32) & _MASK, index & _MASK, (index >> 32) & _MASK):
            start = mix((start * 5 + _GOLDEN & _MASK) ^ word)
        # Two words of state: 32 bits alone would give two of 100 000 scenes the same key more often than not.
        self.high, self.low = start, mix(start ^ mix(index + 0x632BE5AB & _MASK))

    def bits(self, name: str, *shape: int) -> Tensor:
        """Return 32 random bits per element, int64 [batch, *shape]."""
        count = prod(shape)
        counter = mix(torch.arange(count, device=self.device) ^ zlib.crc32(name.encode()))
        bits = mix(mix(counter[None] ^ self.high[:, None]) ^ self.low[:, None])
        return bits.reshape(len(self.high), *shape)

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform numbers in [low, high), float64 [batch, *shape]."""
        return self.bits(name, *shape).double() * ((high - low) / 2.0**32) + low

    def integer(self, name: str, *shape: int, count: int) -> Tensor:
        """Return uniform integers in 0 .. count - 1, int64 [batch, *shape]."""
        return self.bits(name, *shape) * count >> 32

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return nearly Gaussian numbers (the four bytes of one hash, added), mean 0, variance 1, float32.

        Built from additions alone, so that the result does not depend on how a batch is cut into vector registers.
        """
        bits = self.bits(name, *shape)
        total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + (bits >> 24)
        # Each byte: mean 127.5, variance (256**2 - 1) / 12.
        scaled: Tensor = (total.float() - 510.0) * (4 * 65535 / 12) ** -0.5
        return scaled
