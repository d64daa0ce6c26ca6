"""Whether a graph's output is decoded already: it ends in a softmax or a sigmoid."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec

# what lays out, casts or resizes, so that probabilities stay probabilities
_CARRIES = frozenset(
    (
        "Identity",
        "Cast",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Gather",
        "Resize",
        "Expand",
    )
)
_DECIDES = {"Softmax": "a softmax", "Sigmoid": "a sigmoid", "HardSigmoid": "a hard sigmoid"}
_DECODED = ("classification", "multilabel", "edges", "saliency")


def refuse_decoding_twice(graph: ir.Model, specs: Sequence[TaskSpec]) -> None:
    """Raise InputError if an output of ``graph`` is a probability and its task says logit, which is decoded again."""
    outputs = {value.name: value for value in graph.graph.outputs}
    for spec in specs:
        last = _decider(outputs[spec.name]) if spec.kind in _DECODED and spec.name in outputs else ""
        if last and spec.unit == "logit":
            raise InputError(
                f"the output of task '{spec.name}' ({spec.kind}) ends in {last}, so it is a probability, and its unit "
                "says logit, which would be decoded once more; set unit: probability in its TaskSpec."
            )


def _decider(value: ir.Value) -> str:
    node = value.producer()
    while node is not None and node.op_type in _CARRIES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return _DECIDES.get(node.op_type, "") if node is not None else ""
