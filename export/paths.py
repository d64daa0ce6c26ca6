"""The graphs of a network with deltas: all tasks in one shared pass, and each task with only what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from slimtask.compress.edits.deltas import DeltaTrunk
from slimtask.errors import InputError
from slimtask.export.onnx import subgraph, trace_onnx
from slimtask.export.shared import SharedViT
from slimtask.export.shared.explain import why_no_layer
from slimtask.kernels.costs import Costs

_TOGETHER = ("units", "second", "layer")  # forms of steps that lie in one product, or node, with those of other tasks
_DTYPES: dict[str, type[np.floating[Any]]] = {"fp16": np.float16}


@dataclass(frozen=True, kw_only=True)
class DeltaLayers:
    """Which first layers of merged branches become the base's output and a delta, of those that can.

    By default none, with ``costs`` those that dispatch expects to be faster so on the costs' device, and with
    ``always`` all.
    """

    costs: Costs | None = None
    always: bool = False

    def options(self, precision: str) -> dict[str, Any]:
        """Return what ``SharedViT.of`` is given for a graph of ``precision``."""
        dtype = np.dtype(_DTYPES.get(precision, np.float32)).name
        device = None if self.costs is None else self.costs.device
        prefer = "kernels" if self.always else "expected"
        # Task by task: a task's own graph is cut out of that of all, and is to have nothing of the others.
        return {"costs": self.costs, "device": device, "prefer": prefer, "dtype": dtype, "batched": False}

    def check(self, shared: SharedViT) -> None:
        """Raise InputError if what was asked for cannot be had: no layer can, or no cost is of one that can."""
        steps = [step for branch in shared.trunk.each() for step in branch.steps]
        choices = [step.choice for step in steps if step.choice is not None]
        layers = any(step.form == "layer" for step in steps)
        if (self.always and not layers) or (self.costs is not None and not choices):
            option = "--delta-nodes" if self.always else "--costs"
            raise InputError(
                f"no layer of this network can run as base and delta, for most because: {why_no_layer(shared)}; leave "
                f"{option} out."
            )
        expected = [each for choice in choices for each in choice.alternatives]
        if self.costs is not None and all(each.source != "measured" for each in expected):
            problem = choices[0].problem
            raise InputError(
                f"none of the costs of {self.costs.device} is of a layer of this network in {problem.dtype} on "
                f"{problem.tokens} tokens; measure them there: slimtask costs CHECKPOINT --on cuda --precision "
                f"{'fp16' if problem.dtype == 'float16' else 'fp32'}."
            )


def trace_paths(
    model: nn.Module,
    roles: Mapping[str, Sequence[str]],
    example: Tensor,
    *,
    precision: str = "fp32",
    layers: DeltaLayers | None = None,
) -> dict[str, ir.Model]:
    """Return the graph of every role, a path's name and its tasks; raises as ``trace_onnx``.

    A transformer with deltas is traced as the SharedViT of the role's tasks, other networks as they are. It is traced
    once for all roles, but for a task whose layers hold units of others in the graph of all tasks.
    """
    layers = layers or DeltaLayers()
    chosen = {**layers.options(precision), "size": tuple(example.shape[-2:])}
    shared = shared_form(model, layers, chosen)
    apart = {role for role, tasks in roles.items() if shared is not None and _mixed(shared, tasks)}
    graphs = {
        role: trace_onnx(SharedViT.of(model, roles[role], **chosen), None, example, precision=precision)
        for role in apart
    }
    if len(apart) < len(roles):
        traced = trace_onnx(shared or model, None, example, precision=precision)
        graphs |= {role: subgraph(traced, tasks) for role, tasks in roles.items() if role not in apart}
    return {role: graphs[role] for role in roles}


def shared_form(model: nn.Module, layers: DeltaLayers, options: Mapping[str, Any]) -> SharedViT | None:
    """Return the form in which a network with deltas computes all tasks at once; None if it has none.

    Raises InputError if ``layers`` asks for what cannot be had.
    """
    if not has_deltas(model):
        return None
    try:
        shared = SharedViT.of(model, **options)
    except InputError:
        if layers.always or layers.costs is not None:
            raise
        return None  # a trunk of another structure runs as it is
    layers.check(shared)
    return shared


def has_deltas(model: nn.Module) -> bool:
    """Return whether tasks of ``model`` have weights of their own as deltas of the base's."""
    return isinstance(getattr(model, "trunk", None), DeltaTrunk)


def base_weights(model: nn.Module, precision: str) -> dict[str, np.ndarray]:
    """Return the matrices (and kernels) of the base network's trunk by name, as a graph of ``precision`` holds them."""
    trunk: Any = model.trunk
    dtype = _DTYPES.get(precision, np.float32)
    return {
        f"trunk.{name}": parameter.detach().cpu().numpy().astype(dtype)
        for name, parameter in trunk.named_parameters()
        if not name.startswith("deltas.") and parameter.ndim > 1
    }


def _mixed(shared: SharedViT, tasks: Sequence[str]) -> bool:
    """Return whether the graph of all tasks computes units or layers of other tasks in the layers of these."""
    others = [spec.name for spec in shared.tasks if spec.name not in tasks]
    return any(step.form in _TOGETHER for other in others for step in shared.trunk.steps(other).values())
