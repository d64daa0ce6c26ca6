"""Graphs with whole constant weights, for builders of engines: TensorRT-RTX computes nothing before a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir

from slimtask.export.delta_nodes.functions import DOMAIN
from slimtask.export.weights import write_graphs

_EVERYTHING = 2**62  # bytes


def write_whole(graph: Path, folder: Path, *, keep: Collection[str] = ()) -> Path:
    """Return the path of a copy of an ONNX file in ``folder``, in which what depends on weights alone is computed.

    Bodies take the place of their delta nodes, but for those that ``keep`` names, which are marked for kernels compiled
    ahead of time.
    """
    made = whole(ir.load(graph), keep=keep)
    write_graphs({graph.name: made}, folder)
    return folder / graph.name


def whole(model: ir.Model, *, keep: Collection[str] = ()) -> ir.Model:
    """Return the copy of ``write_whole`` of a graph in memory."""
    import onnxscript.optimizer
    from onnx_ir.passes.common import (
        InlinePass,
        RemoveUnusedFunctionsPass,
        RemoveUnusedNodesPass,
        RemoveUnusedOpsetsPass,
    )

    made = model.clone()
    for node in made.graph.all_nodes():
        if node.domain == DOMAIN and node.op_type in keep:
            node.attributes["aot"] = ir.AttrInt64("aot", 1)
    InlinePass(criteria=lambda function: function.name not in keep)(made)
    onnxscript.optimizer.fold_constants(
        made, input_size_limit=_EVERYTHING, output_size_limit=_EVERYTHING, should_fold=_keeps_no_zeros
    )
    for tidy in (RemoveUnusedNodesPass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass):
        tidy()(made)
    return made


def _keeps_no_zeros(node: ir.Node) -> bool | None:
    """Return True for what the folding would leave for its size, None where it decides itself."""
    return True if node.op_type == "ConstantOfShape" else None


def delta_nodes(graph: Path) -> tuple[str, ...]:
    """Return the names of the delta nodes in an ONNX file, each once."""
    nodes = ir.load(graph).graph.all_nodes()
    return tuple(dict.fromkeys(node.op_type for node in nodes if node.domain == DOMAIN))
