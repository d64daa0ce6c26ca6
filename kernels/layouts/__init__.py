"""Layouts: the changed entries of T weight matrices, packed into arrays that kernels and standard operators read.

numpy only. ``LAYOUTS`` names the kinds; ``pack`` makes the layout of a kind.
"""

from __future__ import annotations

from typing import Any

from slimtask.kernels.layouts.base import Array, Layout, ValueLayout
from slimtask.kernels.layouts.channels import InChannelLayout, OutChannelLayout, RowLayout
from slimtask.kernels.layouts.sparse import BlockLayout, CsrLayout
from slimtask.kernels.layouts.vectors import TwoFourLayout, VectorLayout

_OF_WEIGHTS = (CsrLayout, BlockLayout, VectorLayout, OutChannelLayout, InChannelLayout, TwoFourLayout)
LAYOUTS: dict[str, type[Layout]] = {layout.kind: layout for layout in (*_OF_WEIGHTS, RowLayout)}

__all__ = [
    "LAYOUTS",
    "BlockLayout",
    "CsrLayout",
    "InChannelLayout",
    "Layout",
    "OutChannelLayout",
    "RowLayout",
    "TwoFourLayout",
    "ValueLayout",
    "VectorLayout",
    "pack",
]


def pack(kind: str, delta_TMK: Array, **sizes: Any) -> ValueLayout:
    """Return ``delta_TMK`` in the layout ``kind``: csr, block, vector, out-channels, in-channels or two-four.

    ``sizes`` are those of the layout's own ``pack``. ValueError for another kind or a delta that does not fit it.
    """
    kinds = {layout.kind: layout for layout in _OF_WEIGHTS}
    if kind not in kinds:
        raise ValueError(f"there is no layout '{kind}' of weights; take one of {', '.join(kinds)}.")
    return kinds[kind].pack(delta_TMK, **sizes)
