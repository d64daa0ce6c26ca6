"""Verifying a bundle without the model it came from: hashes, graphs, weights, precision, and paths that agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slimtask.errors import CheckFailed, InputError, SlimtaskError
from slimtask.export.bundle import FUSED, Artifact, Bundle, TensorSpec
from slimtask.export.parity import TOLERANCES, check_parity, ill_conditioned_outputs, probe_inputs
from slimtask.export.precision import graph_precision
from slimtask.export.runtime.ort import OrtSession
from slimtask.onnx_file import held_onnx
from slimtask.tasks import Frozen, TaskSpec


class Check(Frozen):
    """One thing looked at: its name, whether it holds, and what was found."""

    name: str
    holds: bool
    detail: str


class BundleReport(Frozen):
    """Every check of a bundle, in order; true only if all hold."""

    bundle: str
    checks: tuple[Check, ...]

    def __bool__(self) -> bool:
        return all(check.holds for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)


def verify_bundle(path: Path | str) -> BundleReport:
    """Return what was checked in the bundle at ``path`` and what was found; its truth value is the verdict.

    Checks: every file's hash (changed, missing and extra files are named); every graph is valid ONNX whose weights
    lie inside the files listed; the precision recorded is the one in the graph; parity was recorded and holds; each
    per-task graph gives what the fused one gives; engines are there with their targets. After a failed hash nothing
    else is loaded. Raises InputError if ``path`` is no bundle at all.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    checks = [_check("files", partial(_files, bundle))]
    if checks[0].holds:
        for artifact in manifest.artifacts:
            examine = _graph if artifact.backend == "onnx" else _engine
            checks.append(_check(artifact.path, partial(examine, bundle, artifact)))
        checks.append(_check("paths agree", partial(_paths_agree, bundle)))
    return BundleReport(bundle=str(path), checks=tuple(checks))


def _check(name: str, examine: Callable[[], str]) -> Check:
    try:
        return Check(name=name, holds=True, detail=examine())
    except SlimtaskError as error:
        return Check(name=name, holds=False, detail=str(error))


def _files(bundle: Bundle) -> str:
    bundle.verify()
    files = bundle.manifest.files
    return f"{len(files)} files, {sum(file.bytes for file in files)} bytes, every SHA-256 as exported"


def _graph(bundle: Bundle, artifact: Artifact) -> str:
    data = {name: bundle.read(bundle.file(name)) for name in artifact.data}
    try:
        file = held_onnx(bundle.read(artifact), data, f"'{artifact.path}'")
        file.check()
        model = file.model
    except InputError as error:
        raise CheckFailed(str(error)) from None
    names = tuple(output.name for output in model.graph.output)
    if names != artifact.tasks:
        raise CheckFailed(f"its outputs are {names}, the manifest says {artifact.tasks}")
    check_contract(bundle, artifact, model)
    precision = graph_precision(model)
    if precision != artifact.precision:
        raise CheckFailed(f"it computes in {precision}, the manifest says {artifact.precision}")
    if not artifact.parity:
        raise CheckFailed("its parity with the PyTorch model is not recorded, or beyond the tolerance")
    half = artifact.parity_in_half
    if half is not None and not half:
        raise CheckFailed("its parity with the PyTorch model in half arithmetic is beyond the tolerance")
    in_half = "" if half is None else f" ({half.error:.1e} in half arithmetic)"
    return f"valid ONNX, opset {artifact.opset}, {precision} (graph), parity {artifact.parity.error:.1e}{in_half}"


def check_contract(bundle: Bundle, artifact: Artifact, model: Any) -> None:
    """Raise CheckFailed unless the inputs and outputs of an ``onnx.ModelProto`` are those that the manifest describes.

    Name, shape and dtype are the graph's; kind, channels and layout of a task must be such as go with them.
    """
    manifest = bundle.manifest
    names = tuple(value.name for value in model.graph.input)
    if names != tuple(spec.name for spec in manifest.inputs):
        raise CheckFailed(f"its inputs are {names}, the manifest says {tuple(spec.name for spec in manifest.inputs)}")
    declared = {spec.name: spec for spec in (*manifest.inputs, *manifest.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        spec, (shape, dtype) = declared[value.name], _shape_and_dtype(value)
        if (shape, dtype) != (spec.shape, spec.dtype):
            raise CheckFailed(
                f"its '{value.name}' is {dtype} {list(shape)}, the manifest says {spec.dtype} {list(spec.shape)}"
            )
    for task in manifest.tasks:
        spec = declared[task.name]
        if task.name in artifact.tasks and not _fits(spec, task):
            raise CheckFailed(
                f"its '{task.name}' is {list(spec.shape)}, {spec.layout}, which is not what the manifest's {task.kind} "
                f"task of {task.channels} channel(s) gives"
            )
    size = (1, 3, manifest.preprocessing.height, manifest.preprocessing.width)
    if manifest.inputs[0].shape != size:
        raise CheckFailed(f"it takes {list(manifest.inputs[0].shape)}, the manifest's preprocessing gives {list(size)}")


def _fits(spec: TensorSpec, task: TaskSpec) -> bool:
    """Return whether an output is laid out as a task of its kind is: numbers by channel, or class numbers."""
    if task.kind == "segmentation" and np.dtype(spec.dtype).kind in "iu":
        wanted = {"NCHW": (4, 1), "NHW": (3, None)}.get(spec.layout)
    else:
        wanted = (4, task.channels) if task.dense else (2, task.channels)
        wanted = wanted if spec.layout == ("NCHW" if task.dense else "NC") else None
    channels = spec.shape[1] if len(spec.shape) in (2, 4) else None
    return spec.kind == task.kind and (len(spec.shape), channels) == wanted


def _shape_and_dtype(value: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape of a graph's input or output, -1 for a size that is not fixed, and the name of its dtype."""
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return shape, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)


def _engine(bundle: Bundle, artifact: Artifact) -> str:
    if not artifact.targets or not bundle.read(artifact):
        raise CheckFailed("it is empty or names no target")
    ran = f"parity {artifact.parity.error:.1e}" if artifact.parity is not None else "not run where it was built"
    if artifact.parity is not None and not artifact.parity:
        raise CheckFailed("its parity with the PyTorch model is beyond the tolerance")
    kernels = f", kernels of {', '.join(artifact.plugins)} inside" if artifact.plugins else ""
    return f"{artifact.precision} ({artifact.precision_source}), {', '.join(artifact.targets)}, {ran}{kernels}"


def _paths_agree(bundle: Bundle) -> str:
    """Compare each per-task graph with the fused one on seeded inputs; they share every weight, so closely."""
    graphs = {artifact.role: artifact for artifact in bundle.artifacts("onnx")}
    probes = probe_inputs(bundle.manifest.preprocessing, count=2, seed=1)
    results = {role: _run(bundle, artifact, probes) for role, artifact in graphs.items()}
    for role, outputs in results.items():
        for name, output in outputs.items():
            if not np.isfinite(output).all():
                raise CheckFailed(f"'{graphs[role].path}' gives NaN or infinity for '{name}'")
    if FUSED not in graphs or len(graphs) == 1:
        return f"{len(graphs)} graph(s) ran; there is no second path to compare"
    fused = results.pop(FUSED)
    worst = 0.0
    for role, outputs in results.items():
        tolerance = TOLERANCES.get(graphs[role].precision, TOLERANCES["fp16"])
        unit_vectors = ill_conditioned_outputs(bundle.manifest.tasks)
        parity = check_parity({name: fused[name] for name in outputs}, outputs, tolerance, unit_vectors)
        if not parity:
            raise CheckFailed(f"'{graphs[role].path}' does not agree with the fused graph: {parity}")
        worst = max(worst, parity.error)
    return f"{len(results)} per-task graphs equal the fused one to {worst:.1e}"


def _run(bundle: Bundle, artifact: Artifact, probes: np.ndarray) -> dict[str, np.ndarray]:
    data = {name: bundle.read(bundle.file(name)) for name in artifact.data}
    try:
        session = OrtSession(bundle.read(artifact), data, name=f"'{artifact.path}'")
    except InputError as error:
        raise CheckFailed(str(error)) from None
    try:
        runs = [session.run(probe[None]) for probe in probes]
    except Exception as error:  # onnxruntime's own exceptions share no base besides Exception
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise CheckFailed(f"'{artifact.path}' does not run on what the manifest describes ({reason})") from None
    finally:
        session.close()
    return {name: np.concatenate([run[name] for run in runs]) for name in artifact.tasks}
