"""Linear layers of all tasks in standard operators: T graphs, one batched product, appended columns, changed rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Shaped

from slimtask.bench.studies.delta.compare import Call, Form, in_turn, max_rel_error
from slimtask.bench.studies.delta.graphs import Graph, Session
from slimtask.bench.studies.delta.grid import chosen
from slimtask.kernels.floors import speedup
from slimtask.kernels.layouts import OutChannelLayout, RowLayout

Array = Shaped[np.ndarray, "..."]
TRUTH = "float64"


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearData:
    """Random numbers of one layer: x [N, K], weight [M, K], bias [M], and the sub-tasks' inputs ``owned`` [T, N, K].

    ``density`` of the outputs and ``share`` of the rows are every sub-task's own.
    """

    x: Array
    weight: Array
    bias: Array
    changed: OutChannelLayout
    owned: Array
    rows: RowLayout
    density: float
    share: float

    @classmethod
    def random(
        cls, *, inputs: int, outputs: int, tokens: int, tasks: int, density: float, rows: float, seed: int = 0
    ) -> LinearData:
        """Return reproducible data: deltas a tenth of the weights' size, changed rows as large as the others."""
        draw = np.random.default_rng(seed)
        x = draw.standard_normal((tokens, inputs), np.float32)
        weight = draw.standard_normal((outputs, inputs), np.float32) / np.float32(math.sqrt(inputs))
        delta = np.zeros((tasks, outputs, inputs), np.float32)
        mask = np.zeros((tasks, tokens), bool)
        for task in range(tasks):
            channels = draw.choice(outputs, chosen(outputs, density), replace=False)
            delta[task, channels] = 0.1 * draw.standard_normal((len(channels), inputs)) / math.sqrt(inputs)
            mask[task, draw.choice(tokens, math.ceil(rows * tokens), replace=False)] = True
        fresh = draw.standard_normal((tasks, tokens, inputs), np.float32) if rows else np.zeros((tasks, 1, 1))
        return cls(
            x=x,
            weight=weight,
            bias=draw.standard_normal(outputs).astype(np.float32),
            changed=OutChannelLayout.pack(delta),
            owned=np.where(mask[:, :, None], fresh, x).astype(np.float32) if rows else x[None],
            rows=RowLayout.pack(mask, budget=max(1, math.ceil(rows * tokens))),
            density=density,
            share=rows,
        )

    @cached_property
    def merged(self) -> Array:
        """Return the weights of every sub-task, [T, M, K]."""
        return np.asarray(self.weight + self.changed.dense())

    @property
    def tasks(self) -> int:
        """Return the number of sub-tasks; the base comes on top."""
        return self.changed.shape[0]

    def own(self, task: int) -> Array:
        """Return the input of a sub-task."""
        return np.asarray(self.owned[task] if self.share else self.x)

    def truth(self) -> list[Array]:
        """Return the outputs of the base and of every sub-task in float64."""
        weights = [self.weight, *self.merged]
        inputs = [self.x, *(self.own(task) for task in range(self.tasks))]
        return [
            x.astype(np.float64) @ weight.astype(np.float64).T + self.bias
            for x, weight in zip(inputs, weights, strict=True)
        ]

    def feeds(self) -> dict[str, Array]:
        """Return the inputs of every graph by name; of indices one column for each task."""
        feeds = {"x": self.x}
        for task in range(self.tasks if self.share else 0):
            feeds |= {f"own_{task}": self.own(task), f"rows_{task}": self.rows.index[task].astype(np.int64)}
        return feeds


def dense_graph(x_NK: Array, weight_MK: Array, bias_M: Array) -> bytes:
    """Return one dense layer: x -> y."""
    graph = Graph()
    graph.linear("x", weight_MK, bias_M, to="y")
    return graph.serialised({"x": x_NK}, {"y": (len(x_NK), len(weight_MK))})


def batched_graph(data: LinearData) -> bytes:
    """Return all dense layers as one product: of the shared input with stacked weights, or of T inputs by T weights."""
    graph, (tasks, outputs, inputs), tokens = Graph(), data.merged.shape, len(data.x)
    if not data.share:
        graph.linear("x", data.merged.reshape(-1, inputs), np.tile(data.bias, tasks), to="y")
        return graph.serialised({"x": data.x}, {"y": (tokens, tasks * outputs)})
    product = graph.node("MatMul", "own", graph.constant(data.merged.swapaxes(1, 2)))
    graph.node("Add", product, graph.constant(data.bias), to="y")
    return graph.serialised({"own": data.owned}, {"y": (tasks, tokens, outputs)})


def delta_graph(data: LinearData, *, full: bool) -> bytes:
    """Return design A, and B for the changed rows: appended columns of all sub-tasks, gathered rows by merged weights.

    The outputs are "wide" [N, M + T p], the base's columns and then every sub-task's changed ones, and per sub-task
    "changed_0" [R, M]; with ``full`` "base" [N, M] and "task_0" [N, M].
    """
    graph, feeds = Graph(), data.feeds()
    tokens, (outputs, inputs) = len(data.x), data.weight.shape
    channel = data.changed.channel
    appended = np.stack([merged[own] for merged, own in zip(data.merged, channel, strict=True)])
    weight = np.concatenate([data.weight, appended.reshape(-1, inputs)])
    bias = np.concatenate([data.bias, data.bias[channel].ravel()])
    wide = graph.linear("x", weight, bias, to="wide")
    shapes: dict[str, Sequence[int]] = {"base": (tokens, outputs)} if full else {"wide": (tokens, len(weight))}
    if full:
        bounds = [graph.constant(np.array([number])) for number in (0, outputs, 1)]
        graph.node("Slice", wide, *bounds, to="base")
    for task in range(data.tasks):
        rows = _changed_rows(graph, data, task, full=full)
        if full:
            _whole(graph, data, task, rows)
            shapes[f"task_{task}"] = (tokens, outputs)
        elif rows:
            shapes[rows] = (data.rows.index.shape[1], outputs)
    return graph.serialised(feeds, shapes)


def _changed_rows(graph: Graph, data: LinearData, task: int, *, full: bool) -> str | None:
    if not data.share:
        return None
    gathered = graph.node("Gather", f"own_{task}", f"rows_{task}", axis=0)
    return graph.linear(gathered, data.merged[task], data.bias, to=None if full else f"changed_{task}")


def _whole(graph: Graph, data: LinearData, task: int, rows: str | None) -> None:
    """Put a sub-task's output together: the base's columns and its own, then its changed rows over them."""
    name, source = f"task_{task}", graph.constant(_sources(data, task))
    if rows is None:
        graph.node("Gather", "wide", source, to=name, axis=1)
        return
    columns = graph.node("Gather", "wide", source, axis=1)
    places = graph.node("Unsqueeze", f"rows_{task}", graph.constant(np.array([1])))
    graph.node("ScatterND", columns, places, rows, to=name)


def _sources(data: LinearData, task: int) -> Array:
    """Return for every output of a sub-task its column in "wide"."""
    outputs, channel = len(data.weight), data.changed.channel
    source = np.arange(outputs)
    source[channel[task]] = outputs + task * channel.shape[1] + np.arange(channel.shape[1])
    return source


def whole_outputs(data: LinearData, found: dict[str, Array]) -> list[Array]:
    """Return the outputs of base and sub-tasks from those of a ``delta_graph``."""
    if "base" in found:
        return [found["base"], *(found[f"task_{task}"] for task in range(data.tasks))]
    tasks = []
    for task in range(data.tasks):
        y = found["wide"][:, _sources(data, task)]
        if data.share:
            y[data.rows.index[task]] = found[f"changed_{task}"]
        tasks.append(y)
    return [found["wide"][:, : len(data.weight)], *tasks]


def linear_forms(
    sizes: tuple[int, int], *, tokens: int, tasks: int, points: Sequence[tuple[float, float]], threads: int
) -> tuple[dict[str, Call], list[Form]]:
    """Return the baselines and forms of a layer of ``sizes`` (inputs, outputs) at the (density, rows) ``points``.

    The baselines "dense" and "batched" read one shared input, "batched own" T inputs. The base is computed besides the
    ``tasks`` sub-tasks, so a delta form has one output more than T dense models. Unstructured deltas are executed with
    merged weights, which is what ONNX Runtime has for them: a dense product for every task in one graph.
    """
    inputs, outputs = sizes
    baselines: dict[str, Call] = {}
    forms: list[Form] = []
    for density, rows in points:
        data = LinearData.random(inputs=inputs, outputs=outputs, tokens=tokens, tasks=tasks, density=density, rows=rows)
        truth, feeds = data.truth(), data.feeds() | {"own": data.owned}
        if not baselines:
            graphs = [dense_graph(data.x, weight, data.bias) for weight in data.merged]
            sessions = [Session(graph, feeds, threads=threads) for graph in graphs]
            baselines["dense"] = in_turn([session.call for session in sessions])
            forms.append(_merged_form(data, threads))
        batched = "batched own" if rows else "batched"
        if batched not in baselines:
            baselines[batched] = Session(batched_graph(data), feeds, threads=threads).call
        for full in (False, True):
            session = Session(delta_graph(data, full=full), feeds, threads=threads)
            form = Form(
                call=session.call,
                pattern="out-channels",
                density=density,
                rows=rows,
                tasks=tasks,
                flop_ratio=speedup(tasks=tasks, deltas=tasks, rows=rows, cost=chosen(outputs, density) / outputs),
                max_rel_error=max_rel_error(whole_outputs(data, session.outputs()), truth),
                reference=TRUTH,
                output="full" if full else "compact",
                batched=batched,
            )
            forms.append(form)
    return baselines, forms


def _merged_form(data: LinearData, threads: int) -> Form:
    graph, shape = Graph(), (len(data.x), len(data.weight))
    weights = [data.weight, *data.merged]
    names = [graph.linear("x", weight, data.bias, to=f"y_{i}") for i, weight in enumerate(weights)]
    session = Session(graph.serialised({"x": data.x}, dict.fromkeys(names, shape)), data.feeds(), threads=threads)
    found = session.outputs()
    return Form(
        call=session.call,
        pattern="unstructured",
        density=data.density,
        rows=0.0,
        tasks=data.tasks,
        flop_ratio=data.tasks / (data.tasks + 1),
        max_rel_error=max_rel_error([found[name] for name in names], data.truth()),
        reference=TRUTH,
        batched="batched",
        also={"form": "merged"},
    )
