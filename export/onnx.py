"""ONNX graphs of a multi-task model: one traced graph of all tasks, and each task's sub-graph cut out of it.

The model is traced once. A task's graph is the fused graph with the other outputs, and everything only they need,
removed: its weights are then the fused graph's own, BatchNorm folded once, so that files can share them.
Opset 20 and IR 10, because ONNX Runtime and TensorRT 10 and 11 all read them.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from slimtask.compress.network.apart import first_line
from slimtask.compress.network.contents import independent_copy
from slimtask.errors import InputError, Unsupported
from slimtask.export.delta_nodes.functions import attach_functions
from slimtask.export.delta_nodes.translate import translations
from slimtask.export.half import in_half_
from slimtask.export.outputs import check_outputs, run_model
from slimtask.export.weights.store import write_graphs
from slimtask.tasks import TaskSpec, select_tasks

OPSET = 20
IR_VERSION = 10
INPUT = "image"


def export_onnx(
    model: nn.Module, tasks: Sequence[str] | None, example: Tensor, path: Path | str, *, precision: str = "fp32"
) -> Path:
    """Return ``path`` after writing there one ONNX graph of ``tasks`` (all for None), traced on ``example``.

    ``example`` is float32 [batch, 3, height, width] and fixes the graph's static shapes. The input is "image", the
    outputs carry the task names. Weights go to ``<name>.weights.bin`` beside the graph. Raises as ``trace_onnx``.
    """
    path = Path(path)
    write_graphs(
        {path.name: trace_onnx(model, tasks, example, precision=precision)}, path.parent, f"{path.stem}.weights.bin"
    )
    return path


def trace_onnx(model: nn.Module, tasks: Sequence[str] | None, example: Tensor, *, precision: str = "fp32") -> ir.Model:
    """Return the ONNX graph of ``tasks`` (all for None) with BatchNorm folded and dead nodes removed.

    "fp16" computes in half precision between float32 inputs and outputs. The model is copied, never changed. Raises
    InputError if its outputs do not fit its TaskSpecs and Unsupported if an operator has no ONNX form.
    """
    specs = select_tasks(task_specs(model), tasks)
    names = [spec.name for spec in specs]
    check_outputs(run_model(frozen_copy(model), example, names), specs, example)
    graph = _trace(traced_module(model, names, precision), example, names).model
    graph.ir_version = IR_VERSION
    _own_nodes_(graph, names)
    _tidy(graph)
    return subgraph(graph, names)


def subgraph(model: ir.Model, outputs: Sequence[str]) -> ir.Model:
    """Return a copy of ``model`` with only ``outputs``, in that order, and only the nodes and weights they need."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

    cut = model.clone()
    by_name = {value.name: value for value in cut.graph.outputs}
    cut.graph.outputs.clear()
    cut.graph.outputs.extend(by_name[name] for name in outputs)
    RemoveUnusedNodesPass()(cut)
    RemoveUnusedOpsetsPass()(cut)
    attach_functions(cut)
    return cut


def task_specs(model: nn.Module) -> tuple[TaskSpec, ...]:
    """Return ``model.tasks``; InputError if the model does not declare them."""
    specs = getattr(model, "tasks", None)
    if not isinstance(specs, (tuple, list)) or not specs or not all(isinstance(spec, TaskSpec) for spec in specs):
        raise InputError(
            f"the model {type(model).__name__} has no 'tasks': set it to a tuple of TaskSpec, one per output name."
        )
    parameters = inspect.signature(model.forward).parameters
    if "tasks" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise InputError(
            f"the forward of {type(model).__name__} takes no 'tasks'; give it the signature forward(x, tasks=None)."
        )
    return tuple(specs)


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a float32 copy of ``model`` on the CPU in eval mode; the original keeps its mode, device and dtype."""
    scripted = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise InputError(
            f"'{scripted[0] or type(model).__name__}' is TorchScript, which cannot be exported again; put the module "
            "that was scripted in its place."
        )
    return independent_copy(model).cpu().float().eval().requires_grad_(False)


def traced_module(model: nn.Module, tasks: Sequence[str], precision: str) -> nn.Module:
    """Return what is traced for a graph of ``tasks``: a copy of ``model`` from an image to a tuple of outputs."""
    wrapper = _Wrapper(frozen_copy(model), list(tasks))
    return _Half(wrapper) if precision == "fp16" else wrapper


class _Wrapper(nn.Module):
    """The model as a function of one tensor to a tuple in task order, which is what an ONNX graph is."""

    def __init__(self, model: nn.Module, tasks: list[str]) -> None:
        super().__init__()
        self.model, self.tasks = model, tasks
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(image, tasks=self.tasks)
        # The clone gives two tasks that share one tensor two outputs; the optimiser removes it elsewhere.
        return tuple(outputs[name].clone() for name in self.tasks)


class _Half(nn.Module):
    """The wrapper in half precision between float32 inputs and outputs: the types end up in the graph itself."""

    def __init__(self, wrapper: _Wrapper) -> None:
        super().__init__()
        self.model = in_half_(wrapper).model
        self.wrapper = [wrapper]  # in a list, so that parameters are named as in the float32 graph
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.wrapper[0](image.half())
        return tuple(output.float() if output.dtype == torch.half else output for output in outputs)


def _trace(module: nn.Module, example: Tensor, names: list[str]) -> Any:
    try:
        with _quiet():
            return torch.onnx.export(
                module,
                (example.detach().cpu().float().clone(),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(names),
                custom_translation_table=translations(),
                verbose=False,
            )
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = first_line(root)[:200].strip().rstrip(".")
        raise Unsupported(
            "exporting the model", f"ONNX opset {OPSET}", f"{type(root).__name__}: {reason}", "replace that operation"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says against itself; the user's own warnings still show."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript", "torch.onnx")]
    before = [logger.level for logger in loggers]
    with contextlib.ExitStack() as stack:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(logging.ERROR)
            stack.callback(logger.setLevel, level)
        stack.enter_context(warnings.catch_warnings())
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings(
                "ignore", category=category, module=r"(torch|onnxscript|onnx_ir|onnx|copyreg)(\.|$)"
            )
        yield


def _own_nodes_(model: ir.Model, names: Sequence[str]) -> None:
    """Give each output that is a weight or an input (a head that ignores the image) a node, and all their names."""
    for place, (value, name) in enumerate(zip(list(model.graph.outputs), names, strict=True)):
        if value.producer() is None:
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            model.graph.append(node)
            model.graph.outputs[place] = node.outputs[0]
            value.name = f"constant:{place}"
        model.graph.outputs[place].name = name


def _tidy(model: ir.Model) -> None:
    """Name nodes after the modules they came from and drop traces: paths of source files do not belong in a product.

    The tracer's own names depend on what was traced before; these depend on the model alone, so that files repeat.
    """
    edges = {*model.graph.inputs, *model.graph.outputs}
    used = {value.name or "": 1 for value in edges}  # a parameter may be called as a task is, or "image"
    for node in model.graph.all_nodes():
        node.name = _unique(f"{_scope(node)}{node.op_type}", used)
        for index, value in enumerate(node.outputs):
            if value not in edges and value.graph is not None:
                value.name = f"{node.name}:{index}"
    weights = [(value.name or "", value) for value in model.graph.initializers.values()]
    for place, (_, value) in enumerate(weights):
        value.name = f":{place}"  # so that no new name is another's old one
    for name, value in weights:
        value.name = _unique(name.removeprefix("model.") if name.startswith("model.") else "constant", used)
    _drop_metadata(model)


def _scope(node: ir.Node) -> str:
    """Return "trunk/layer1/0/conv1/" for a node traced inside module ``trunk.layer1.0.conv1``, else ""."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    modules = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")][:-1]
    innermost = modules[-1] if modules else ""
    return innermost.removeprefix("model").strip(".").replace(".", "/") + "/" if innermost.removeprefix("model") else ""


def _unique(name: str, used: dict[str, int]) -> str:
    used[name] = used.get(name, 0) + 1
    return name if used[name] == 1 else f"{name}_{used[name]}"


def _drop_metadata(model: ir.Model) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
