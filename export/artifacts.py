"""The artifacts of one export: each written, read back, run and compared with the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
from torch import nn

from slimtask.compress.network.apart import first_line
from slimtask.errors import CheckFailed, InputError, Unsupported
from slimtask.export.bundle import Artifact, File
from slimtask.export.engines import Engine, build_engine
from slimtask.export.half import HalfArithmetic, keep_in_float32_, overflowing
from slimtask.export.onnx import OPSET, traced_module
from slimtask.export.outputs import check_outputs, refuse_decoding_twice, run_model
from slimtask.export.parity import Parity, check_parity, ill_conditioned_outputs, probe_inputs
from slimtask.export.paths import DeltaLayers, base_weights, has_deltas, trace_paths
from slimtask.export.plugins import register_plugins
from slimtask.export.precision import graph_precision
from slimtask.export.runtime.ort import OrtSession
from slimtask.export.runtime.trt import TrtSession
from slimtask.export.weights.shared import delta_nodes, share_base, write_whole
from slimtask.export.weights.store import WEIGHTS, write_graphs
from slimtask.files import sha256
from slimtask.onnx_file import open_onnx
from slimtask.tasks import Preprocessing, TaskSpec

_DTYPES = {"fp32": "float32", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one export is about.

    ``model`` is a float32 copy in eval mode; ``folder`` the directory being filled; ``roles`` maps each path ("fused"
    or a task name) to its tasks; ``targets`` maps each engine backend to its compute capabilities (None: its own).
    ``merged``: a delta's task is stored with all its weights, not as those of the base and what differs; ``layers``:
    which of its layers run as base and delta.
    """

    model: nn.Module
    folder: Path
    specs: tuple[TaskSpec, ...]
    preprocessing: Preprocessing
    roles: dict[str, tuple[str, ...]]
    precision: str
    tolerance: float
    targets: dict[str, tuple[str, ...] | None]
    merged: bool = False
    layers: DeltaLayers = field(default_factory=DeltaLayers)

    @cached_property
    def probes(self) -> np.ndarray:
        """The inputs float32 [count, 3, H, W] that every artifact is tried on; nothing may write to them."""
        probes = probe_inputs(self.preprocessing)
        probes.setflags(write=False)
        return probes

    @cached_property
    def weights(self) -> bytes:
        """The content of the shared weights."""
        return (self.folder / WEIGHTS).read_bytes()

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """What the model gives for one probe, by task: the shapes and types that the manifest states."""
        names = [spec.name for spec in self.specs]
        image = torch.tensor(self.probes[:1])
        outputs = run_model(self.model, image, names)
        check_outputs(outputs, self.specs, image)
        return {name: outputs[name].numpy() for name in names}

    def reference(self, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Return what the float32 PyTorch model gives for the probes when asked for ``tasks`` alone."""
        outputs = [run_model(self.model, torch.tensor(probe[None]), tasks) for probe in self.probes]
        return {name: np.concatenate([output[name].numpy() for output in outputs]) for name in tasks}


def keep_what_overflows_(job: Job) -> None:
    """Mark the modules of the job's model that half precision does not bear, if marking some makes it right."""
    names = [spec.name for spec in job.specs]
    images = [torch.tensor(probe[None]) for probe in job.probes]
    while not _half_parity(job, names):
        half, whole = (traced_module(job.model, names, precision) for precision in ("fp16", "fp32"))
        wrong = overflowing(whole, half, images, job.tolerance)
        if not wrong:
            return
        keep_in_float32_(job.model, wrong)


def write_job_graphs(job: Job) -> None:
    """Trace the model and write the graph of every path, with the weights they share."""
    example = torch.tensor(job.probes[:1])
    graphs = trace_paths(job.model, job.roles, example, precision=job.precision, layers=job.layers)
    for graph in graphs.values():
        refuse_decoding_twice(graph, job.specs)
    if has_deltas(job.model) and not job.merged:
        # Single tasks first: what the graph of all tasks stores of a task is then what the task's own graph does.
        order = sorted(graphs, key=lambda role: len(job.roles[role]))
        share_base([graphs[role] for role in order], base_weights(job.model, job.precision))
    write_graphs({f"{role}.onnx": graph for role, graph in graphs.items()}, job.folder)


def checked_graph(job: Job, role: str) -> Artifact:
    """Return the graph of ``role`` as an artifact: valid ONNX, its precision read back, equal to the model."""
    path = job.folder / f"{role}.onnx"
    file = open_onnx(path, path.name)
    try:
        file.check()
    except InputError as error:
        reason = str(error).rstrip(".")
        raise Unsupported("exporting the model", f"ONNX opset {OPSET}", reason, "replace that operation") from None
    model = file.model
    data = (WEIGHTS,) if any(tensor.external_data for tensor in model.graph.initializer) else ()
    weights = dict.fromkeys(data, job.weights if data else b"")
    return Artifact(
        **_file(job, path.name).model_dump(),
        backend="onnx",
        role=role,
        tasks=job.roles[role],
        precision=graph_precision(model),
        precision_source="graph",
        opset=next(opset.version for opset in model.opset_import if opset.domain == ""),
        data=data,
        parity=parity_of(job, role, path.name, lambda: OrtSession(path.read_bytes(), weights, name=path.name)),
        parity_in_half=_right_in_half(job, role) if job.precision == "fp16" else None,
    )


def checked_engine(job: Job, role: str, backend: str, trt: ModuleType) -> Artifact:
    """Return the engine of ``role`` as an artifact, run against the model if it was built for the GPU present."""
    path = job.folder / f"{role}.{backend}.engine"
    engine, plugins = _built(job, role, backend, trt, path)
    # What was compiled ahead of time for chosen GPUs cannot run here; what was built on this GPU can, and must.
    runs_here = backend == "tensorrt"
    return Artifact.model_validate(
        _file(job, path.name).model_dump()
        | {"backend": backend, "role": role, "tasks": job.roles[role], "opset": OPSET, "plugins": plugins}
        | engine.model_dump()
        | {"parity": parity_of(job, role, path.name, lambda: TrtSession(trt, path.read_bytes())) if runs_here else None}
    )


def _built(job: Job, role: str, backend: str, trt: ModuleType, path: Path) -> tuple[Engine, tuple[str, ...]]:
    """Return the engine built at ``path`` and the plugins in it; builders do not put weights together themselves."""
    graph = job.folder / f"{role}.onnx"
    if not has_deltas(job.model) and not delta_nodes(graph):
        return build_engine(trt, graph, path, targets=job.targets[backend]), ()
    plugins = register_plugins(trt, delta_nodes(graph), _DTYPES[job.precision]) if backend == "tensorrt" else ()
    with TemporaryDirectory() as scratch:
        whole = write_whole(graph, Path(scratch), keep=plugins)
        return build_engine(trt, whole, path, targets=job.targets[backend]), plugins


def data_files(job: Job) -> tuple[File, ...]:
    """Return the files of shared weights, none if every tensor fitted into the graphs."""
    return (_file(job, WEIGHTS),) if (job.folder / WEIGHTS).exists() else ()


def parity_of(job: Job, role: str, name: str, load: Callable[[], OrtSession | TrtSession]) -> Parity:
    """Return how far what ``load`` opens is from the model; raise CheckFailed, which names it, beyond the tolerance."""
    session = load()
    try:
        runs = [session.run(probe[None]) for probe in job.probes]
    finally:
        session.close()
    candidate = {task: np.concatenate([run[task] for run in runs]) for task in job.roles[role]}
    unit_vectors = ill_conditioned_outputs(job.specs)
    parity = check_parity(job.reference(job.roles[role]), candidate, job.tolerance, unit_vectors)
    if not parity:
        raise CheckFailed(
            f"{name} does not compute what the PyTorch model does ({parity}); nothing was exported: look for code that "
            "behaves differently while it is traced, or allow more with the tolerance."
        )
    return parity


def _right_in_half(job: Job, role: str) -> Parity:
    """Return the parity of the role's tasks computed operator by operator in half precision; CheckFailed beyond it."""
    parity = _half_parity(job, job.roles[role])
    if not parity:
        raise CheckFailed(
            f"in half precision the network of {role}.onnx does not compute what it does in float32 ({parity}); "
            "nothing was exported: put what overflows in a module of its own, which then stays in float32, or use fp32."
        )
    return parity


def _half_parity(job: Job, tasks: Sequence[str]) -> Parity:
    half = traced_module(job.model, tasks, "fp16")
    runs = []
    for probe in job.probes:
        try:
            with torch.no_grad(), HalfArithmetic():  # type: ignore[no-untyped-call]
                runs.append([output.numpy() for output in half(torch.tensor(probe[None]))])
        except RuntimeError as error:
            raise Unsupported("half precision", "PyTorch on this CPU", first_line(error), "use fp32") from None
    found = {task: np.concatenate(outputs) for task, outputs in zip(tasks, zip(*runs, strict=True), strict=True)}
    return check_parity(job.reference(tasks), found, job.tolerance, ill_conditioned_outputs(job.specs))


def _file(job: Job, name: str) -> File:
    return File(path=name, bytes=(job.folder / name).stat().st_size, sha256=sha256(job.folder / name))
