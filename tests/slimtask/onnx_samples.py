"""Small graphs with a tensor in each of the places that can hold one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

VALUES = np.arange(4, dtype=np.float32)
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def tensor(location: str | None = None, offset: str = "0", length: str = "16", name: str = "w") -> TensorProto:
    """Return four float32 numbers, held or in a file."""
    if location is None:
        return onnx.numpy_helper.from_array(VALUES, name)
    made = TensorProto(name=name, dims=[4], data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        made.external_data.add(key=key, value=value)
    return made


def model(
    nodes: list[onnx.NodeProto],
    initializer: list[TensorProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
    dims: list[int | str] | None = None,
) -> onnx.ModelProto:
    """Return a graph from x to y."""
    x, y = (helper.make_tensor_value_info(name, 1, [4] if dims is None else dims) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=initializer or [])
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9, functions=functions or [])


def initialiser(w: TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [w])


def constant(w: TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["w"], value=w), helper.make_node("Add", ["x", "w"], ["y"])])


def in_branch(w: TensorProto) -> onnx.ModelProto:
    out = [helper.make_tensor_value_info("o", 1, [4])]
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["o"])], "b", [], out, initializer=[w])
    flag = helper.make_node("Constant", [], ["f"], value=onnx.numpy_helper.from_array(np.array(True)))
    return model([flag, helper.make_node("If", ["f"], ["y"], then_branch=branch, else_branch=branch)])


def in_function(w: TensorProto) -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["w"], value=w), helper.make_node("Add", ["a", "w"], ["b"])]
    function = helper.make_function("own", "F", ["a"], ["b"], body, OPSETS[:1])
    return model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function])


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    each.__name__: each for each in (initialiser, constant, in_branch, in_function)
}


def nested_functions(depth: int, calls: int = 2, *, last: str = "") -> onnx.ModelProto:
    """Return a graph of functions that each call the next one ``calls`` times; the last one calls ``last``."""
    functions = []
    for level in range(depth):
        called = f"F{level + 1}" if level + 1 < depth else last
        domain = "own" if called else ""
        chain = ["a", *(f"v{i}" for i in range(calls - 1)), "b"]
        body = [helper.make_node(called or "Neg", [i], [o], domain=domain) for i, o in pairwise(chain)]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], body, OPSETS))
    return model([helper.make_node("F0", ["x"], ["y"], domain="own")], functions=functions)


def nested_graphs(depth: int) -> onnx.ModelProto:
    """Return a graph of an If in an If in an If."""
    out = [helper.make_tensor_value_info("o", 1, [4])]
    flag = helper.make_node("Constant", [], ["f"], value=onnx.numpy_helper.from_array(np.array(True)))
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], "b", [], out)
    for _ in range(depth):
        node = helper.make_node("If", ["f"], ["o"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([flag, node], "b", [], out)
    return model([flag, helper.make_node("If", ["f"], ["y"], then_branch=inner, else_branch=inner)])


def loop(trips: int | None) -> onnx.ModelProto:
    """Return a graph that adds w to x ``trips`` times, without an end for None."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "w"], ["o"])],
        "b",
        [helper.make_tensor_value_info(*each) for each in (("i", 7, []), ("c", 9, []), ("v", 1, [4]))],
        [helper.make_tensor_value_info(*each) for each in (("d", 9, []), ("o", 1, [4]))],
    )
    held = [tensor(), onnx.numpy_helper.from_array(np.array(True), "t")]
    if trips is not None:
        held.append(onnx.numpy_helper.from_array(np.array(trips), "m"))
    return model([helper.make_node("Loop", ["" if trips is None else "m", "t", "x"], ["y"], body=body)], held)
