"""The floating-point operations of one operation on a tape, by PyTorch's own formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from slimtask.compress.network.tape import Operation, Ref

_ON_CPU = "_scaled_dot_product_flash_attention_for_cpu"


def operation_flops(op: Operation) -> int:
    """Return the FLOPs of ``op``, a multiply-add counted as two; 0 for what is no convolution or matrix product."""
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    if op.name == _ON_CPU:  # PyTorch has no formula for this one
        return int(sdpa_flop_count(*(x.shape for x in op.args[:3])))  # type: ignore[no-untyped-call]
    formula: Any = flop_registry.get(getattr(torch.ops.aten, op.name, None))
    if formula is None:
        return 0
    outputs = tree_map(_stand_in, op.outputs)
    whole = outputs[0] if len(outputs) == 1 else outputs
    return int(formula(*tree_map(_stand_in, op.args), **tree_map(_stand_in, op.kwargs), out_val=whole))


def _stand_in(value: Any) -> Any:
    """Return a tensor without memory for a Ref: a formula asks for nothing but shapes."""
    return torch.empty(value.shape, device="meta") if isinstance(value, Ref) else value
