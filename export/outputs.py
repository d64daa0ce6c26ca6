"""What a model returns, run as an export runs it: errors in one sentence, layouts and types that a bundle can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from slimtask.compress.network.apart import first_line
from slimtask.errors import InputError, SlimtaskError
from slimtask.tasks import TaskSpec

_NUMBERS = (torch.float32, torch.float64)  # of float16 an fp16 graph would give float32, against its manifest
_CLASSES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MASKED = ("edges", "saliency", "multilabel")

# what lays out, casts or resizes, so that probabilities stay probabilities
_CARRIES = {"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
_CARRIES |= {"Flatten", "Slice", "Gather", "Resize", "Expand"}
_DECIDES = {"Softmax": "a softmax", "Sigmoid": "a sigmoid", "HardSigmoid": "a hard sigmoid"}
_DECODED = ("classification", "multilabel", "edges", "saliency")


def run_model(model: nn.Module, image: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Return the outputs of ``tasks`` for ``image`` [N, 3, H, W], of which the model gets a copy: it may write to it.

    Raises InputError, with the error's first line, if the model does not run or does not return these outputs.
    """
    name = type(getattr(model, "model", model)).__name__
    try:
        with torch.no_grad():
            outputs = model(image.clone(), tasks=list(tasks))
    except SlimtaskError:
        raise
    except Exception as error:  # whatever the user's code raises
        size = "x".join(map(str, image.shape[1:]))
        raise InputError(
            f"{name} does not run on a {size} image on the CPU ({type(error).__name__}: {first_line(error)}); mend it, "
            "or give the size that it takes."
        ) from error
    if not isinstance(outputs, dict) or not set(tasks) <= set(outputs):
        returned = sorted(map(str, outputs)) if isinstance(outputs, dict) else type(outputs).__name__
        raise InputError(
            f"the model's forward(x, tasks={list(tasks)}) must return a dict with these keys; it returned {returned}."
        )
    return outputs


def check_outputs(outputs: Mapping[str, Any], specs: Sequence[TaskSpec], image: Tensor) -> None:
    """Raise InputError unless every task's output has its layout and a type that its kind can have.

    Numbers are [N, channels, H, W] (dense) or [N, channels]. A segmentation may give class numbers, integers of shape
    [N, 1, H, W] or [N, H, W]; edges, saliency and multilabel may give booleans of the layout of numbers.
    """
    batch, _, height, width = image.shape
    for spec in specs:
        output = outputs[spec.name]
        if not isinstance(output, Tensor):
            raise InputError(f"task '{spec.name}' gives a {type(output).__name__}, not a tensor; return its tensor.")
        expected = (batch, spec.channels, height, width) if spec.dense else (batch, spec.channels)
        fits = tuple(output.shape) == expected
        if output.dtype in _CLASSES and spec.kind == "segmentation":
            fits = tuple(output.shape) in ((batch, 1, height, width), (batch, height, width))
        elif output.dtype not in _NUMBERS and not (output.dtype == torch.bool and spec.kind in _MASKED):
            raise InputError(
                f"task '{spec.name}' ({spec.kind}) gives {str(output.dtype).removeprefix('torch.')}, which its kind "
                "cannot be decoded from; return its float32 numbers."
            )
        if not fits:
            raise InputError(
                f"task '{spec.name}' ({spec.kind}) gives an output of shape {tuple(output.shape)} instead of "
                f"{expected}; make the model's head and its TaskSpec agree."
            )


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
