"""Layouts: the changed entries of T weight matrices, packed into arrays that kernels and standard operators read.

numpy only. ``pack`` makes the layout of a kind.
"""

from __future__ import annotations

from typing import Any

from slimtask.kernels.layouts.base import Array, Layout, ValueLayout
from slimtask.kernels.layouts.channels import OutChannelLayout, RowLayout
from slimtask.kernels.layouts.sparse import BlockLayout, CsrLayout, VectorLayout

__all__ = ["BlockLayout", "CsrLayout", "Layout", "OutChannelLayout", "RowLayout", "ValueLayout", "VectorLayout", "pack"]

_KINDS = {layout.kind: layout for layout in (CsrLayout, BlockLayout, VectorLayout, OutChannelLayout)}


def pack(kind: str, delta_TMK: Array, **sizes: Any) -> ValueLayout:
    """Return ``delta_TMK`` in the layout ``kind``: csr, block, vector or out-channels.

    ``sizes`` are those of the layout's own ``pack``. ValueError for another kind or a delta that does not fit it.
    """
    if kind not in _KINDS:
        raise ValueError(f"there is no layout '{kind}' of weights; take one of {', '.join(_KINDS)}.")
    return _KINDS[kind].pack(delta_TMK, **sizes)
