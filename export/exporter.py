"""Exporting a model to a bundle: graphs, engines, parity with PyTorch by path, then manifest: parity or no bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from slimtask import __version__
from slimtask.errors import InputError, nearest
from slimtask.export.artifacts import (
    Job,
    checked_engine,
    checked_graph,
    data_files,
    keep_what_overflows_,
    write_job_graphs,
)
from slimtask.export.bundle import FUSED, MANIFEST, Artifact, Bundle, Manifest, TensorSpec
from slimtask.export.engines import check_targets
from slimtask.export.onnx import INPUT, frozen_copy, task_specs
from slimtask.export.parity import TOLERANCES
from slimtask.export.paths import DeltaLayers, has_deltas
from slimtask.export.runtime.trt import tensorrt_module
from slimtask.files import atomic_directory, refuse_existing, write_json
from slimtask.tasks import Preprocessing, TaskSpec

PATHS = ("fused", "per-task")
FORMATS = ("onnx", "tensorrt", "tensorrt-rtx")

Progress = Callable[[str, int, int], None]
"""Called as (what is being done, steps done, steps in all)."""


def export_bundle(
    model: nn.Module,
    out: Path | str,
    *,
    preprocessing: Preprocessing,
    paths: Sequence[str] = PATHS,
    to: Sequence[str] = ("onnx",),
    targets: Sequence[str] | None = None,
    precision: str = "fp32",
    merged: bool = False,
    layers: DeltaLayers | None = None,
    tolerance: float | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Return the bundle written to the new directory ``out``: every path exported, run and compared with ``model``.

    ``model`` has ``forward(x, tasks=None) -> dict`` and ``tasks`` (TaskSpecs); it is copied, not changed. ``paths``:
    "fused" (one graph of all tasks) and "per-task" (one graph each); ``to`` adds engines for "tensorrt" and
    "tensorrt-rtx" (for ``targets``) to the ONNX graphs, which are always written, as what engines are built from and
    verified against. ``tolerance`` bounds the relative error of every output (None: that of TOLERANCES).

    Of a transformer with deltas "fused" computes once what the tasks share (SharedViT), and a task's weights are
    stored as the base's, once for all paths, and what differs; with ``merged`` every graph has whole weights.
    ``layers`` says which of its layers become delta nodes, the base's output and a delta (None: none of them).

    Raises InputError for unknown choices or a model that does not fit its TaskSpecs, Unsupported for what a backend
    cannot do, and CheckFailed if an artifact differs from the model; nothing is left in ``out`` then.

    Examples:
        >>> from slimtask import Preprocessing, TaskSpec
        >>> from slimtask.compress import TaskOutputs
        >>> from slimtask.export import export_bundle
        >>> from torch import nn
        >>> net = TaskOutputs(nn.Conv2d(3, 1, 1), [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> bundle = export_bundle(net, "bundle", preprocessing=Preprocessing(height=16, width=16))
        >>> [(artifact.role, artifact.path) for artifact in bundle.manifest.artifacts]
        [('fused', 'fused.onnx'), ('depth', 'depth.onnx')]
    """
    _check_choices(paths, to, precision)
    _check_deltas(model, merged, layers)
    refuse_existing(out)
    modules = {backend: tensorrt_module(backend) for backend in dict.fromkeys(to) if backend != "onnx"}
    own_targets = _targets(modules, targets)
    specs = task_specs(model)
    _check_names(specs)
    roles = _roles(specs, paths)
    report = _Steps(progress, 1 + len(roles) * (1 + len(modules)))
    with atomic_directory(out) as folder:
        job = Job(
            model=frozen_copy(model),
            folder=folder,
            specs=specs,
            preprocessing=preprocessing,
            roles=roles,
            precision=precision,
            tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
            targets=own_targets,
            merged=merged,
            layers=layers or DeltaLayers(),
        )
        manifest = _manifest(job, _fill(job, modules, report), modules, provenance)
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        report("writing the bundle")
    return Bundle.open(out)


def _fill(job: Job, modules: Mapping[str, ModuleType], report: _Steps) -> list[Artifact]:
    """Write, read back and check every artifact of the job."""
    report("tracing the model")
    if job.precision == "fp16" and not has_deltas(job.model):
        keep_what_overflows_(job)
    write_job_graphs(job)
    artifacts = []
    for role in job.roles:
        report(f"checking {role}.onnx")
        artifacts.append(checked_graph(job, role))
    for backend, module in modules.items():
        for role in job.roles:
            report(f"building {role}.{backend}.engine")
            artifacts.append(checked_engine(job, role, backend, module))
    return artifacts


class _Steps:
    """Counts steps for the caller's progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._total)
        self._done += 1


def _check_choices(paths: Sequence[str], to: Sequence[str], precision: str) -> None:
    for what, chosen, known in (
        ("path", paths, PATHS),
        ("format", to, FORMATS),
        ("precision", [precision], TOLERANCES),
    ):
        if isinstance(chosen, str) or not chosen:
            raise InputError(f"give the export at least one {what}, in a list: {', '.join(known)}.")
        for word in chosen:
            if word not in known:
                hint = f"; take one of {', '.join(known)}." if what == "precision" else nearest(word, known)
                raise InputError(f"unknown {what} '{word}'{hint}")


def _check_deltas(model: nn.Module, merged: bool, layers: DeltaLayers | None) -> None:
    """Raise InputError for choices about deltas where there are none, or which contradict each other."""
    always = layers is not None and layers.always
    given = "--merged" if merged else "--delta-nodes" if always else "--costs"
    if (merged or layers is not None) and not has_deltas(model):
        raise InputError(f"{given} is for networks with deltas, and this one has none; leave it out.")
    if merged and layers is not None:
        raise InputError(
            "--merged stores whole weights, --delta-nodes and --costs keep some as deltas; choose one of them."
        )


def _targets(modules: Mapping[str, ModuleType], targets: Sequence[str] | None) -> dict[str, tuple[str, ...] | None]:
    """Return the targets of each engine backend; with both products they choose for TensorRT-RTX alone."""
    if targets and not modules:
        raise InputError(f"the targets {list(targets)} need an engine; add tensorrt-rtx to the formats.")
    own: dict[str, tuple[str, ...] | None] = {}
    for backend, module in modules.items():
        chosen = None if targets is None or (backend == "tensorrt" and len(modules) > 1) else tuple(targets)
        own[backend] = check_targets(module, chosen) or None
    return own


def _check_names(specs: Sequence[TaskSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1 or name in (FUSED, INPUT):
            reason = "used twice" if names.count(name) > 1 else "a name the bundle uses itself"
            raise InputError(f"the task name '{name}' is {reason}; rename the task.")


def _roles(specs: Sequence[TaskSpec], paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    roles = {FUSED: tuple(spec.name for spec in specs)} if "fused" in paths else {}
    return roles | ({spec.name: (spec.name,) for spec in specs} if "per-task" in paths else {})


def _manifest(
    job: Job, artifacts: Sequence[Artifact], modules: Mapping[str, ModuleType], provenance: Mapping[str, Any] | None
) -> Manifest:
    height, width = job.preprocessing.height, job.preprocessing.width
    image = TensorSpec(name=INPUT, shape=(1, 3, height, width), dtype="float32", layout="NCHW", unit="1", kind="image")
    engines = {backend: str(module.__version__) for backend, module in modules.items()}
    return Manifest(
        tasks=job.specs,
        inputs=(image,),
        outputs=tuple(_output_spec(spec, job.outputs[spec.name]) for spec in job.specs),
        preprocessing=job.preprocessing,
        artifacts=tuple(artifacts),
        data=data_files(job),
        versions=_library_versions() | engines,
        provenance=dict(provenance or {}),
    )


def _library_versions() -> dict[str, str]:
    import onnxruntime

    libraries = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")}
    return {"slimtask": __version__, **libraries, "onnxruntime": str(onnxruntime.__version__)}


def _output_spec(spec: TaskSpec, output: np.ndarray) -> TensorSpec:
    unit = "class" if output.dtype.kind in "iu" else "boolean" if output.dtype == bool else spec.unit
    layout = {2: "NC", 3: "NHW", 4: "NCHW"}[output.ndim]
    return TensorSpec(
        name=spec.name, shape=output.shape, dtype=str(output.dtype), layout=layout, unit=unit, kind=spec.kind
    )
