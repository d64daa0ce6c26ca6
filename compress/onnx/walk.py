"""The channels of an ONNX graph, as the analysis of PyTorch networks (``compress/graph``) finds them on its tape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped

from slimtask.compress.graph.affine import per_index
from slimtask.compress.graph.axes import Array, align, varying
from slimtask.compress.graph.constants import evaluate
from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.graph.coupling import couple
from slimtask.compress.onnx.flow import Classes, Entries, Flow, Reader, Tie, Value
from slimtask.compress.onnx.network import DOMAINS, Network, attributes, described
from slimtask.compress.onnx.operators import is_padded
from slimtask.compress.onnx.refit import refits
from slimtask.compress.onnx.traced import INSIDE, trace

_OUTPUT = re.compile("they are channels of the network's output '(.*)'")
_WORDS = {
    "they meet channels of a fixed number": "combines its channels with some that have to stay",
    f"'onnx {INSIDE}' mixes them": "reads it from inside",
}


@dataclass(frozen=True, kw_only=True)
class _Map:
    """A node that is a linear map by a constant matrix, with the axes of that."""

    node: int
    weight: str
    in_axis: int
    out_axis: int
    padded: bool = False
    scale: float = 1.0


def walk(network: Network) -> Flow:
    """Return the channels of ``network``: how they are coupled, what is constant, what has to stay and why."""
    traced = trace(network)
    coupling = couple(traced.tape)
    seen, known = evaluate(traced.tape, _tensors(network))
    maps = list(_maps(network))
    axes = {(axis.tensor, axis.axis): axis.atoms for axis in coupling.labels.axes}

    def atoms(weight: str, axis: int) -> Entries:
        return axes.get((weight, axis), np.zeros(network.weights[weight].shape[axis], np.int64))

    classes = _classes(
        network, coupling, maps, [(atoms(m.weight, m.in_axis), atoms(m.weight, m.out_axis)) for m in maps]
    )
    values = {
        name: value
        for name, ref in traced.values.items()
        if (value := _value(ref.number, ref.shape, coupling, known, classes))
    }
    readers = [
        _reader(network, one, atoms(one.weight, one.in_axis), atoms(one.weight, one.out_axis), seen) for one in maps
    ]
    made = [network.nodes[one.node].output[0] for one in maps]
    return Flow(
        network=network,
        classes=classes,
        values=values,
        makers=[values[name] for name in made if name in values],
        ties=[Tie(weight=axis.tensor, axis=axis.axis, labels=axis.atoms) for axis in coupling.labels.axes],
        readers=readers,
        refits=list(refits(network, traced, coupling)),
    )


def _tensors(network: Network) -> dict[str, torch.Tensor]:
    """Return the constants that are numbers with a point, as tensors."""
    floats = {name: array for name, array in network.weights.items() if array.dtype.kind == "f"}
    return {name: torch.from_numpy(a if a.flags.writeable else a.copy()) for name, a in floats.items()}


def _maps(network: Network) -> Iterator[_Map]:
    """Yield the nodes that are linear maps over all their channels."""
    for index, node in enumerate(network.nodes):
        name = node.input[1] if len(node.input) > 1 else ""
        weight, given = network.weights.get(name), attributes(node)
        if weight is None or node.domain not in DOMAINS or weight.dtype.kind != "f" or node.input[0] in network.weights:
            continue
        if node.op_type in ("Conv", "ConvTranspose") and given.get("group", 1) == 1 and weight.ndim > 2:
            turned = node.op_type == "ConvTranspose"
            # transposed, it answers a constant differently at the border, and between the steps of its stride
            yield _Map(
                node=index, weight=name, in_axis=1 - turned, out_axis=int(turned), padded=turned or is_padded(node)
            )
        elif node.op_type == "Gemm" and weight.ndim == 2 and given.get("beta", 1.0) != 0:
            out = 1 - int(bool(given.get("transB", 0)))
            scale = float(given.get("alpha", 1.0)) / float(given.get("beta", 1.0))
            yield _Map(node=index, weight=name, in_axis=1 - out, out_axis=out, scale=scale)
        elif node.op_type == "MatMul" and weight.ndim == 2:
            yield _Map(node=index, weight=name, in_axis=0, out_axis=1)


def _reader(network: Network, one: _Map, reads: Entries, writes: Entries, seen: Mapping[str, Array]) -> Reader:
    matrix: Shaped[np.ndarray, "..."] = np.moveaxis(network.weights[one.weight], (one.out_axis, one.in_axis), (0, 1))
    constant = np.broadcast_to(seen.get(one.weight, np.full(1, np.nan)), (matrix.shape[1],)).astype(np.float64)
    return Reader(
        node=one.node,
        weight=one.weight,
        in_axis=one.in_axis,
        out_axis=one.out_axis,
        seen=Value(axis=one.in_axis, labels=reads, constant=constant),
        out=writes,
        padded=one.padded,
        scale=one.scale,
        reads=(matrix != 0).any(axis=tuple(range(2, matrix.ndim))),
    )


def _value(
    number: int, shape: tuple[int, ...], coupling: Coupling, known: Mapping[int, Array], classes: Classes
) -> Value | None:
    """Return the channels of a value, None if it has none or has them along several axes."""
    for layer in coupling.values[0].get(number, []):
        axes = varying(layer)
        labels = layer.ravel()
        if len(axes) == 1 and labels.size == shape[min(axes)] and (classes.of[labels] != classes.channels).any():
            array = align(known.get(number, np.full((), np.nan)), len(shape))
            return Value(axis=min(axes), labels=labels, constant=per_index(array, min(axes), labels.size))
    return None


def _classes(network: Network, coupling: Coupling, maps: list[_Map], sides: list[tuple[Entries, Entries]]) -> Classes:
    """Return the classes of the channels that ``maps`` make; ``sides`` are the labels that each reads and writes."""
    none = np.zeros(0, np.int64)
    tied = coupling.classes
    numbers = np.setdiff1d(tied[np.concatenate([none, *(writes for _, writes in sides)])], tied[:1])
    of = np.searchsorted(numbers, tied)
    of[~np.isin(tied, numbers)] = len(numbers)
    makers: list[list[int]] = [[] for _ in range(len(numbers) + 1)]
    for one, (_, writes) in zip(maps, sides, strict=True):
        for number in np.unique(of[writes]).tolist():
            makers[number].append(one.node)
    keys = [tuple(owners) for owners in makers[:-1]]
    order = {key: index for index, key in enumerate(sorted(set(keys)))}
    read = np.concatenate([none, *(reads for reads, _ in sides)])
    held, reasons = _holds(of, len(numbers) + 1, _reasons(network, coupling, read))
    held[-1] = 0
    return Classes(
        of=of,
        held=held,
        reasons=reasons,
        group=np.array([*(order[key] for key in keys), -1], dtype=np.int64),
        groups=tuple(tuple(dict.fromkeys(described(network.nodes[node]) for node in key)) for key in order),
    )


def _reasons(network: Network, coupling: Coupling, read: Entries) -> Iterator[tuple[Entries, str]]:
    """Yield what has to stay, and why; ``read`` are the labels by which linear maps read, which may do without."""
    for reading in coupling.readings:
        yield reading.labels, f"{described(network.nodes[int(reading.operation.module)])} mixes its channels"
    for module, why, atoms in coupling.labels.pins():
        output = _OUTPUT.fullmatch(why)
        if output is not None:
            yield atoms, f"'{output[1]}' is an output of the graph"
        elif module:
            yield atoms, f"{described(network.nodes[int(module)])} {_WORDS.get(why, 'mixes its channels')}"
        else:
            yield atoms, why
    yield np.setdiff1d(coupling.labels.weight_inputs(), read), "a map that is not followed reads them"


def _holds(of: Entries, count: int, records: Iterator[tuple[Entries, str]]) -> tuple[Entries, tuple[str, ...]]:
    """Return per class the index of the first reason that holds it (-1: none), and the reasons that do."""
    held, number = np.full(count, -1, dtype=np.int64), dict[str, int]()
    for labels, reason in records:
        fresh = np.unique(of[labels])
        fresh = fresh[(held[fresh] < 0) & (fresh < count - 1)]
        if fresh.size:
            held[fresh] = number.setdefault(reason, len(number))
    return held, tuple(number)
