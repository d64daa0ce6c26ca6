"""How the operators of `slimtask.kernels.ops` become ONNX nodes while a network is traced.

Blocks, vectors and single entries become delta nodes (see `functions`), without their bodies, which the exporter would
inline. Changed channels and rows are standard operators: nothing is gained by a kernel of our own there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtask.export.delta_nodes.functions import DOMAIN, VERSION, Layer, schema


def translations() -> dict[Any, Callable[..., Any]]:
    """Return the table for ``torch.onnx.export(custom_translation_table=...)``: operator to function making nodes."""
    import torch

    import slimtask.kernels.ops  # noqa: F401 registers the operators

    ours = torch.ops.slimtask
    return {
        ours.delta_blocks.default: _blocks,
        ours.delta_vectors.default: _vectors,
        ours.delta_csr.default: _csr,
        ours.delta_out_channels.default: _out_channels,
        ours.delta_rows.default: _rows,
        ours.scatter_rows.default: _scatter_rows,
    }


def _blocks(
    start: Any,
    column: Any,
    value: Any,
    x: Any,
    base: Any,
    delta_bias: Any = None,
    residual: Any = None,
    gelu: bool = False,
) -> Any:
    return _node("DeltaBlocks", (start, column, value, x), base, delta_bias, residual, gelu)


def _vectors(
    column: Any, value: Any, x: Any, base: Any, delta_bias: Any = None, residual: Any = None, gelu: bool = False
) -> Any:
    return _node("DeltaVectors", (column, value, _transposed(x)), base, delta_bias, residual, gelu)


def _csr(
    start: Any,
    column: Any,
    value: Any,
    x: Any,
    base: Any,
    delta_bias: Any = None,
    residual: Any = None,
    gelu: bool = False,
) -> Any:
    return _node("DeltaCsr", (start, column, value, _transposed(x)), base, delta_bias, residual, gelu)


def _node(kind: str, arrays: tuple[Any, ...], base: Any, delta_bias: Any, residual: Any, gelu: bool) -> Any:
    from onnxscript.values import Op, Opset

    layer = Layer(kind=kind, bias=delta_bias is not None, gelu=gelu, residual=residual is not None)
    rest = [base if given is None else given for given in (delta_bias, residual)]
    return Op(Opset(DOMAIN, VERSION), layer.name, schema(layer))(*arrays, base, *rest)


def _transposed(x: Any) -> Any:
    """Return x^T with rows as long as the kernels need them, a multiple of eight, zeros at their ends."""
    from slimtask.kernels.cuda.calls import pitch

    op = _operators()

    made = op.Transpose(x, perm=[1, 0])
    extra = pitch(int(x.shape[0])) - int(x.shape[0])
    return op.Pad(made, op.Constant(value_ints=[0, 0, 0, extra])) if extra else made


def _out_channels(
    channel: Any, weights: Any, x: Any, biases: Any = None, residual: Any = None, gelu: bool = False
) -> Any:
    op = _operators()
    y = op.MatMul(x, op.Transpose(weights, perm=[1, 0]))
    y = _finished(y, biases, gelu)
    if residual is None:
        return y
    changed = op.Gather(residual, op.Reshape(channel, op.Constant(value_ints=[-1])), axis=1)
    return op.Add(y, op.Concat(residual, changed, axis=1))


def _rows(
    index: Any,
    count: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    residual: Any = None,
    gelu: bool = False,
    gather: bool = False,
) -> Any:
    op = _operators()
    own = _taken(x, index) if gather else x
    y = op.MatMul(own, op.Transpose(weight, perm=[0, 2, 1]))
    y = _finished(y, None if bias is None else op.Unsqueeze(bias, op.Constant(value_ints=[1])), gelu)
    if residual is None:
        return y
    both = len(residual.shape) == 3
    return op.Add(y, _taken(residual, index) if both else op.Gather(residual, index, axis=0))


def _scatter_rows(index: Any, count: Any, rows: Any, base: Any) -> Any:
    """Write every sub-task's rows; those beyond its count write what the last of them does, or what is there."""
    op = _operators()
    tasks, budget, outputs = (int(size) for size in rows.shape)
    shape = op.Constant(value_ints=[tasks, int(base.shape[-2]), outputs])
    whole = op.Expand(op.CastLike(base, rows), shape)
    last = op.Sub(op.Cast(count, to=7), op.Constant(value_ints=[1]))
    last = op.Max(op.Unsqueeze(last, op.Constant(value_ints=[1])), op.Constant(value_ints=[0]))
    place = op.Min(op.Constant(value_ints=list(range(budget))), last)
    settled = _taken(rows, place)
    filled = op.Greater(
        op.Reshape(count, op.Constant(value_ints=[-1, 1, 1])), op.Cast(op.Constant(value_ints=[0]), to=6)
    )
    rows = op.Where(filled, settled, _taken(whole, index))
    number = op.Unsqueeze(op.Cast(index, to=7), op.Constant(value_ints=[2]))
    return op.ScatterElements(whole, op.Expand(number, op.Constant(value_ints=[tasks, budget, outputs])), rows, axis=1)


def _finished(y: Any, bias: Any, gelu: bool) -> Any:
    op = _operators()
    y = y if bias is None else op.Add(y, bias)
    return op.Gelu(y) if gelu else y


def _taken(tensor: Any, index: Any) -> Any:
    """Return of every sub-task's [N, M] the listed rows, [T, R, M]."""
    op = _operators()
    number = op.Unsqueeze(op.Cast(index, to=7), op.Constant(value_ints=[2]))
    return op.GatherND(tensor, number, batch_dims=1)


def _operators() -> Any:
    """Return the standard operators; untyped, since their arguments are the graph's values."""
    from onnxscript import opset20

    return opset20
