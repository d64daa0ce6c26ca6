"""A network of any inputs and outputs as ONNX, and how far ONNX Runtime on the CPU is from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.inputs import Inputs, call, named_outputs, tensors_of
from slimtask.compress.network.trace import plain_attention
from slimtask.compress.score.cost import count_parameters
from slimtask.differences import over_scale
from slimtask.onnx_session import open_session

OPSET = 20
LARGEST_SINGLE_FILE = 300_000_000  # parameters: a protobuf holds at most 2 GB


class _Flat(nn.Module):
    """The network with its outputs as one tuple, which is what a graph has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(named_outputs(self.model(*tensors)).values())


def export_any(model: nn.Module, inputs: Inputs, path: Path, *, largest: int = LARGEST_SINGLE_FILE) -> Path:
    """Return ``path`` after exporting there ``model`` (a copy) of ``inputs`` (a tensor or a tuple) at fixed sizes.

    Weights lie beside the graph if the network has more than ``largest`` parameters.
    """
    with warnings.catch_warnings(), plain_attention(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Flat(independent_copy(model)), tuple(tensors_of(inputs)), dynamo=True, opset_version=OPSET, verbose=False
        )
        assert program is not None
        program.save(path, external_data=count_parameters(model) > largest)
    return path


def run_onnx(path: Path, inputs: Inputs, threads: int = 1) -> list[np.ndarray]:
    """Return the outputs of the graph on ``inputs`` under ONNX Runtime's CPU provider."""
    opened = open_session(path, threads=threads)
    names = [node.name for node in opened.session.get_inputs()]
    found = opened.run({name: x.numpy() for name, x in zip(names, tensors_of(inputs), strict=True)})
    return list(found.values())


def onnx_rel_error(model: nn.Module, inputs: Inputs, folder: Path, *, largest: int = LARGEST_SINGLE_FILE) -> float:
    """Return the largest difference between network and graph, relative to the largest value of each output."""
    path = export_any(model, inputs, folder / "network.onnx", largest=largest)
    with torch.no_grad():
        expected = named_outputs(call(independent_copy(model).eval(), inputs))
    got = dict(zip(expected, map(torch.from_numpy, run_onnx(path, inputs)), strict=True))
    return largest_rel_error(expected, got)


def largest_rel_error(expected: Mapping[str, Tensor], got: Mapping[str, Any]) -> float:
    """Return the largest absolute difference of any output over its largest value; infinity if one does not fit."""
    return max((over_scale(got[name].double(), truth.double()) for name, truth in expected.items()), default=0.0)
