"""The walk over the graph: each node's rule follows the channels through it, or holds them and says why."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from slimtask.compress.onnx import linear, moves, pointwise
from slimtask.compress.onnx.flow import Flow, Mixes
from slimtask.compress.onnx.network import DOMAINS, Network, captured, described
from slimtask.compress.onnx.scalars import ELEMENTWISE

Rule = Callable[[Flow, int, onnx.NodeProto], None]


def _shape(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    """A shape that is read at run time follows the tensor; it holds nothing."""
    flow.lost[node.output[0]] = f"{described(node)} is no tensor of channels"


# Rules that make channels even where none of their inputs is followed, and all the others.
MAKERS: dict[str, Rule] = {
    "Conv": linear.conv,
    "ConvTranspose": linear.conv,
    "Gemm": linear.gemm,
    "MatMul": linear.matmul,
}
FOLLOWERS: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, pointwise.elementwise),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), pointwise.pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"), pointwise.reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), pointwise.normalised),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), moves.reshape),
    "BatchNormalization": pointwise.batchnorm,
    "InstanceNormalization": pointwise.instancenorm,
    "Dropout": pointwise.dropout,
    "Pad": pointwise.pad,
    "Resize": pointwise.resize,
    "Concat": moves.concat,
    "Split": moves.split,
    "Slice": moves.slice_,
    "Gather": moves.gather,
    "Transpose": moves.transpose,
    "Expand": moves.expand,
    "Shape": _shape,
}


def walk(network: Network) -> Flow:
    """Return the channels of ``network``: how they are coupled, what is constant, what has to stay and why."""
    flow = Flow(network=network)
    for value in network.model.graph.input:
        flow.lost[value.name] = f"'{value.name}' is an input of the graph"
    for index, node in enumerate(network.nodes):
        _visit(flow, index, node)
        inside = captured(node)
        flow.hold(list(inside), f"{described(node)} reads it from inside")
    for value in network.model.graph.output:
        flow.hold([value.name], f"'{value.name}' is an output of the graph")
    return flow


def _visit(flow: Flow, index: int, node: onnx.NodeProto) -> None:
    standard = node.domain in DOMAINS
    rule = MAKERS.get(node.op_type) if standard else None
    tracked = flow.tracked(list(node.input))
    if rule is None and not tracked:
        why = next((flow.lost[name] for name in node.input if name in flow.lost), f"{described(node)} makes it")
        flow.lost.update(dict.fromkeys(node.output, why))
        return
    rule = rule or (FOLLOWERS.get(node.op_type) if standard else None)
    if rule is None:
        flow.lose(node, "mixes its channels")
        return
    before = len(flow.ties), len(flow.readers), len(flow.refits), flow.labels.count
    try:
        if node.input[0] not in flow.values and rule not in _JOINING:
            raise Mixes("takes channels where it should take numbers")
        rule(flow, index, node)
    except Mixes as reason:
        _give_up(flow, node, before, str(reason))
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ):  # a node outside the operator's specification
        _give_up(flow, node, before, "is not of a form that can be followed")


# The other rules follow the channels of their first input alone.
_JOINING = (*MAKERS.values(), pointwise.elementwise, moves.concat)


def _give_up(flow: Flow, node: onnx.NodeProto, before: tuple[int, int, int, int], reason: str) -> None:
    """Forget what a rule noted before it gave up, and hold the channels it read and made."""
    ties, readers, refits, labels = before
    del flow.ties[ties:], flow.readers[readers:], flow.refits[refits:]
    flow.lose(node, reason)
    flow.labels.hold(flow.labels.since(labels), f"{described(node)} {reason}")
