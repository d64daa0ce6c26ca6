"""Delta layers as ONNX functions: nodes of the domain ``slimtask`` whose body is in standard operators of opset 20.

A runtime that knows the node (TensorRT with the plugins of `slimtask.export.plugins`) takes it whole; every other one
computes the body: blocks and single entries as dense weights, which ONNX Runtime makes once when it loads, vectors as
what they are. Inputs are in the order of the CUDA kernels' parameters: delta_bias and residual are there always, and
stand for nothing (any tensor) in a node whose name does not say Bias or Residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import onnx_ir as ir

DOMAIN, VERSION = "slimtask", 1

INPUTS = {
    "DeltaBlocks": ("start", "column", "value", "x", "base", "delta_bias", "residual"),
    "DeltaVectors": ("column", "value", "x_t", "base", "delta_bias", "residual"),
    "DeltaCsr": ("start", "column", "value", "x_t", "base", "delta_bias", "residual"),
}
INTEGERS = ("start", "column")

# Which row (of all sub-tasks' rows) each entry belongs to. TensorRT's scatter cannot add and wants no more indices than
# places, so nothing is written twice:
# the rows that have entries are numbered, and every entry counts the rows that have begun.
_ROW = """
  minus = Constant <value_ints = [-1]> ()
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  start64 = Cast <to = 7> (start)
  column64 = Cast <to = 7> (column)
  entries = Shape (column64)
  first = Slice (start64, zero, minus)
  ends = Shape (start64)
  next = Slice (start64, one, ends)
  rows = Shape (first)
  filled = Less (first, next)
  counted = Cast <to = 7> (filled)
  nought = Constant <value_int = 0> ()
  unit = Constant <value_int = 1> ()
  upto = CumSum (counted, nought)
  rank = Sub (upto, one)
  place = Where (filled, rank, rows)
  rows_and_one = Add (rows, one)
  rows0 = Squeeze (rows)
  number = Range (nought, rows0, unit)
  no_numbers = ConstantOfShape <value = int64[1] {0}> (rows_and_one)
  number_of = ScatterElements (no_numbers, place, number)
  begin = Where (filled, first, entries)
  more = Add (entries, rows)
  no_marks = ConstantOfShape <value = int64[1] {0}> (more)
  ones = ConstantOfShape <value = int64[1] {1}> (rows)
  all_marks = ScatterElements (no_marks, begin, ones)
  marks = Slice (all_marks, zero, entries)
  begun = CumSum (marks, nought)
  order = Sub (begun, one)
  row = Gather (number_of, order)
"""

_SIZES = """
  base_shape = Shape (base)
  tokens = Slice (base_shape, zero, one)
  two = Constant <value_ints = [2]> ()
  outputs = Slice (base_shape, one, two)
  base32 = Cast <to = 1> (base)
  value32 = Cast <to = 1> (value)
"""

# The dense delta [T, M, K] is a table of blocks, most of them the zero block behind the last one.
_BLOCKS = f"""{_ROW}{_SIZES}
  x_shape = Shape (x)
  inputs = Slice (x_shape, one, two)
  value_shape = Shape (value32)
  three = Constant <value_ints = [3]> ()
  height = Slice (value_shape, one, two)
  width = Slice (value_shape, two, three)
  wider = Add (inputs, width)
  wider1 = Sub (wider, one)
  columns = Div (wider1, width)
  higher = Add (outputs, height)
  higher1 = Sub (higher, one)
  tiles = Div (higher1, height)
  row_begin = Mul (row, columns)
  cell = Add (row_begin, column64)
  cells = Mul (rows, columns)
  none = ConstantOfShape <value = int64[1] {{0}}> (cells)
  empty = Add (none, entries)
  entries0 = Squeeze (entries)
  block = Range (nought, entries0, unit)
  block_of = ScatterElements (empty, cell, block)
  zero_shape = Concat <axis = 0> (one, height, width)
  zeros = ConstantOfShape <value = float[1] {{0}}> (zero_shape)
  blocks = Concat <axis = 0> (value32, zeros)
  table = Gather (blocks, block_of)
  grid = Concat <axis = 0> (minus, tiles, columns, height, width)
  grids = Reshape (table, grid)
  tiled = Transpose <perm = [0, 2, 4, 1, 3]> (grids)
  high = Mul (tiles, height)
  broad = Mul (columns, width)
  whole_shape = Concat <axis = 0> (minus, broad, high)
  whole = Reshape (tiled, whole_shape)
  edges = Concat <axis = 0> (inputs, outputs)
  begins = Constant <value_ints = [0, 0]> ()
  axes = Constant <value_ints = [1, 2]> ()
  delta = Slice (whole, begins, edges, axes)
  x32 = Cast <to = 1> (x)
  difference = MatMul (x32, delta)
"""

_CSR = f"""{_ROW}{_SIZES}
  x_shape = Shape (x_t)
  inputs = Slice (x_shape, zero, one)
  row_begin = Mul (row, inputs)
  entry = Add (row_begin, column64)
  size = Mul (rows, inputs)
  zeros = ConstantOfShape <value = float[1] {{0}}> (size)
  flat = ScatterElements (zeros, entry, value32)
  dense_shape = Concat <axis = 0> (minus, outputs, inputs)
  dense = Reshape (flat, dense_shape)
  delta = Transpose <perm = [0, 2, 1]> (dense)
  x_rows = Slice (x_t, zero, tokens, one)
  x = Transpose <perm = [1, 0]> (x_rows)
  x32 = Cast <to = 1> (x)
  difference = MatMul (x32, delta)
"""

_VECTORS = f"""
  minus = Constant <value_ints = [-1]> ()
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
{_SIZES}
  x32 = Cast <to = 1> (x_t)
  listed = Gather <axis = 0> (x32, column)
  products = MatMul (value32, listed)
  value_shape = Shape (value32)
  tasks = Slice (value_shape, zero, one)
  pitch = Shape <start = 1> (x_t)
  joined_shape = Concat <axis = 0> (tasks, minus, pitch)
  joined = Reshape (products, joined_shape)
  edges = Concat <axis = 0> (outputs, tokens)
  begins = Constant <value_ints = [0, 0]> ()
  axes = Constant <value_ints = [1, 2]> ()
  cut = Slice (joined, begins, edges, axes)
  difference = Transpose <perm = [0, 2, 1]> (cut)
"""
_BODIES = {"DeltaBlocks": _BLOCKS, "DeltaVectors": _VECTORS, "DeltaCsr": _CSR}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One kind of delta node: act(base + x D^T [+ bias]) [+ residual], [T, N, M]."""

    kind: str
    bias: bool = False
    gelu: bool = False
    residual: bool = False

    @property
    def name(self) -> str:
        """The node's operator: the kind and what its epilogue adds, "DeltaBlocksBiasGelu"."""
        return self.kind + "Bias" * self.bias + "Gelu" * self.gelu + "Residual" * self.residual

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return INPUTS[self.kind]

    def function(self) -> ir.Function:
        """Return the ONNX function with this name."""
        import onnx

        lines = [_BODIES[self.kind], "total = Add (difference, base32)"]
        if self.bias:
            lines += ["bias32 = Cast <to = 1> (delta_bias)", "bias_TNM = Unsqueeze (bias32, one)"]
            lines += ["biased = Add (total, bias_TNM)"]
        if self.gelu:
            lines += [f"active = Gelu ({'biased' if self.bias else 'total'})"]
        last = "active" if self.gelu else "biased" if self.bias else "total"
        if self.residual:
            lines += ["residual32 = Cast <to = 1> (residual)", f"added = Add ({last}, residual32)"]
        lines += [f"y = CastLike ({'added' if self.residual else last}, value)"]
        head = f'<domain: "{DOMAIN}", opset_import: ["" : 20]> {self.name} ({", ".join(self.inputs)}) => (y)'
        return ir.serde.deserialize_function(onnx.parser.parse_function(f"{head} {{\n" + "\n".join(lines) + "\n}"))


def layers() -> tuple[Layer, ...]:
    """Return every kind of delta node there is."""
    flags = product(INPUTS, (False, True), (False, True), (False, True))
    return tuple(Layer(kind=kind, bias=bias, gelu=gelu, residual=residual) for kind, bias, gelu, residual in flags)


def attach_functions(model: ir.Model) -> None:
    """Give ``model``, in place, the functions of the delta nodes it has, and no others of them."""
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN}
    for identifier in [identifier for identifier in model.functions if identifier[0] == DOMAIN]:
        del model.functions[identifier]
    for layer in layers():
        if layer.name in used:
            function = layer.function()
            model.functions[function.identifier()] = function
    if used:
        model.opset_imports[DOMAIN] = VERSION
    else:
        model.opset_imports.pop(DOMAIN, None)


@cache
def schema(layer: Layer) -> Any:
    """Return what an ONNX exporter has to know of the node: an ``onnx.defs.OpSchema``."""
    from onnx.defs import OpSchema

    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    kinds = [
        ("I", ["tensor(int32)"], "indices"),
        ("T", floats, "values and inputs"),
        ("B", floats, "the base's output"),
    ]
    kind_of = {"base": "B", "delta_bias": "B", "residual": "B"} | dict.fromkeys(INTEGERS, "I")
    inputs = [OpSchema.FormalParameter(name, kind_of.get(name, "T")) for name in layer.inputs]
    outputs = [OpSchema.FormalParameter("y", "T")]
    return OpSchema(layer.name, DOMAIN, VERSION, inputs=inputs, outputs=outputs, type_constraints=kinds)
