"""The proof of a cut: ONNX Runtime on the CPU computes the same from both graphs, on seeded inputs of several sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from jaxtyping import Shaped

from slimtask.compress.onnx.network import Network, assemble
from slimtask.compress.proof.certify import Certificate, Refusal
from slimtask.compress.proof.compare import TaskDifference
from slimtask.errors import InputError
from slimtask.onnx_session import LOOP_SECONDS, OnnxSession, TooLong

Feed = dict[str, Shaped[np.ndarray, "..."]]
_INLINE_BYTES = 1024
_MOST_ELEMENTS = 2**27  # of an input
_BATCHES = (1, 2)
_SIZES = ((64, 96), (224, 224), (32, 32), (256, 320), (128, 128))  # what most networks take is among them


class Session:
    """ONNX Runtime on a network held in memory."""

    def __init__(self, network: Network) -> None:
        """Load ``network``; raises RuntimeError with ONNX Runtime's reason if it refuses the graph."""
        model, data = assemble(network, inline_below_bytes=_INLINE_BYTES)
        try:
            self._session = OnnxSession(
                model.SerializeToString(), data, what="the graph", threads=1, seconds=LOOP_SECONDS
            )
        except InputError as error:
            raise RuntimeError(str(error)) from None
        self.outputs = self._session.outputs

    def run(self, feed: Feed) -> dict[str, Any]:
        """Return every output for ``feed``; RuntimeError if the graph does not take it, TooLong if it does not end."""
        try:
            return self._session.run(feed)
        except TooLong:
            raise
        except InputError as error:
            raise RuntimeError(str(error)) from None


def probes(network: Network, seed: int = 0) -> tuple[tuple[Feed, dict[str, Any]], ...]:
    """Return inputs (noise, strong noise, smooth) with what ``network`` computes from them, at one size or two.

    A size that the graph leaves open is tried until the graph runs; two that run are used. Raises InputError if
    ONNX Runtime does not run the graph.
    """
    generator = np.random.default_rng(seed)
    try:
        session = Session(network)
    except RuntimeError as error:
        raise InputError(str(error)) from None
    done: list[tuple[Feed, dict[str, Any]]] = []
    reason, sizes = "", 0
    for batch, size in _openings(network):
        feeds = [_feed(network, batch, size, generator, kind) for kind in ("noise", "strong", "smooth")]
        try:
            done += [(feed, session.run(feed)) for feed in feeds]
            sizes += 1
        except RuntimeError as error:
            reason = str(error)
        if sizes == 2:
            break
    if not done:
        raise InputError(f"ONNX Runtime cannot run the graph on seeded inputs ({reason}); give its inputs fixed sizes.")
    return tuple(done)


def certify(
    smaller: Network,
    expected: Sequence[tuple[Feed, Mapping[str, Any]]],
    tolerance: float | int,
    refused: Sequence[Refusal],
) -> Certificate:
    """Return the Certificate that ``smaller`` computes what was expected; RuntimeError if it does not run."""
    session = Session(smaller)
    worst: dict[str, TaskDifference] = {}
    for feed, reference in expected:
        got = session.run(feed)
        for name, values in reference.items():
            worst[name] = _worse(worst.get(name), _difference(np.asarray(values), np.asarray(got[name])))
    shapes = [next(iter(feed.values())).shape for feed, _ in expected if feed]
    return Certificate(
        tasks=worst,
        tolerance=tolerance,
        inputs=sum(shape[0] if shape else 1 for shape in shapes),
        sizes=tuple(dict.fromkeys(shape[2:] for shape in shapes)),
        refused=tuple(refused),
    )


def _openings(network: Network) -> list[tuple[int, tuple[int, int]]]:
    """Return the (batch, image size) to try: one if the graph fixes all its sizes."""
    shapes = [network.shapes.get(value.name, ("?",)) for value in network.model.graph.input]
    if all(isinstance(size, int) for shape in shapes for size in shape):
        return [(1, _SIZES[0])]
    if all(isinstance(size, int) for shape in shapes for size in shape[1:]):
        return [(batch, _SIZES[0]) for batch in _BATCHES]
    return [(_BATCHES[index % 2], size) for index, size in enumerate(_SIZES)]


def input_shapes(network: Network) -> list[dict[str, tuple[int, ...]]]:
    """Return the shapes of the inputs to try, by name, for each batch and image size."""
    return [
        {value.name: _shape(network, value.name, batch, size) for value in network.model.graph.input}
        for batch, size in _openings(network)
    ]


def _shape(network: Network, name: str, batch: int, size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(
        dim if isinstance(dim, int) else batch if axis == 0 else size[axis % 2]
        for axis, dim in enumerate(network.shapes.get(name, ()))
    )


def _feed(network: Network, batch: int, size: tuple[int, int], generator: np.random.Generator, kind: str) -> Feed:
    feed = {}
    for value in network.model.graph.input:
        shape = _shape(network, value.name, batch, size)
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        except KeyError:
            raise InputError(
                f"the input '{value.name}' of the graph is of no type of tensor; export it again."
            ) from None
        if dtype.hasobject or not 0 < math.prod(shape) <= _MOST_ELEMENTS:
            raise InputError(
                f"the input '{value.name}' of the graph, {list(shape)}, cannot be made: it is text, empty or too large."
            )
        feed[value.name] = _numbers(shape, generator, kind).astype(dtype)
    return feed


def _numbers(shape: tuple[int, ...], generator: np.random.Generator, kind: str) -> Shaped[np.ndarray, "..."]:
    noise = generator.standard_normal(shape)
    if kind != "smooth":
        return noise * (4 if kind == "strong" else 1)
    for axis in range(2, len(shape)):  # a random walk, back to about the deviation of a normalised image
        noise = np.cumsum(noise, axis=axis) / np.sqrt(np.arange(1, shape[axis] + 1)).reshape(
            -1, *[1] * (len(shape) - axis - 1)
        )
    return noise


def _difference(reference: Shaped[np.ndarray, "..."], got: Shaped[np.ndarray, "..."]) -> TaskDifference:
    infinite = TaskDifference(max_abs=float("inf"), max_rel=float("inf"))
    if reference.dtype.kind not in "fiub" or reference.shape != got.shape:
        return infinite
    if not (np.isfinite(reference).all() and np.isfinite(got).all()):
        return infinite
    if reference.size == 0:
        return TaskDifference(max_abs=0.0, max_rel=0.0)
    largest = float(np.abs(reference.astype(np.float64) - got.astype(np.float64)).max())
    scale = float(np.abs(reference.astype(np.float64)).max())
    relative = largest / scale if scale else (0.0 if largest == 0 else float("inf"))
    return TaskDifference(max_abs=largest, max_rel=relative)


def _worse(one: TaskDifference | None, other: TaskDifference) -> TaskDifference:
    if one is None:
        return other
    return TaskDifference(max_abs=max(one.max_abs, other.max_abs), max_rel=max(one.max_rel, other.max_rel))
