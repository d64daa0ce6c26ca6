"""`slimtask export`: a checkpoint to a bundle of ONNX graphs and engines, one execution path per task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, progress_bar, table, words
from slimtask.cli.network import InputOption, ModelOption, Network, TasksOption, WeightsOption, opened
from slimtask.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from slimtask.export.paths import DeltaLayers
    from slimtask.tasks import Preprocessing


def export_verb(
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint of `slimtask train` or `compress`; or give --model.")
    ] = None,
    paths: Annotated[str, typer.Option(help="Execution paths: fused, per-task.")] = "fused,per-task",
    to: Annotated[str, typer.Option(help="Formats: onnx, tensorrt, tensorrt-rtx.")] = "onnx",
    targets: Annotated[str | None, typer.Option(help="GPU targets of the engines, e.g. sm_86,sm_120.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    merged: Annotated[
        bool, typer.Option("--merged", help="Store sub-tasks of a delta checkpoint with whole weights, not as deltas.")
    ] = False,
    delta_nodes: Annotated[
        bool, typer.Option("--delta-nodes", help="Run layers of sub-tasks as base and delta wherever they can.")
    ] = False,
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Run those as base and delta that are faster by this file of `slimtask costs --on cuda`.",
        ),
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    tasks: TasksOption = None,
    shape: InputOption = None,
    json_path: JsonOption = None,
) -> None:
    """Export ONNX graphs and engines, checked against PyTorch, with their manifest.

    Example: slimtask export small.safetensors --out bundle --to onnx,tensorrt-rtx

    Example: slimtask export --model mynet:MyNet --weights w.pt --tasks tasks.yaml --input 1x3x224x224 --out dense
    """
    from slimtask.export.exporter import export_bundle

    layers = _layers(delta_nodes, costs)
    network = opened(checkpoint, model, weights, tasks, shape)
    exported, preprocessing = _exportable(network, str(checkpoint or f"--model {model}"))
    with progress_bar("export") as progress:
        bundle = export_bundle(
            exported,
            out,
            preprocessing=preprocessing,
            paths=words(paths) or (),
            to=words(to) or (),
            targets=words(targets),
            precision=precision,
            merged=merged,
            layers=layers,
            provenance=network.checkpoint.provenance,
            progress=lambda text, done, total: progress(done, total, text),
        )
    rows = table(f"Bundle {out}", "file", "backend", "tasks", "bytes", "precision", "targets", "parity")
    for artifact in bundle.manifest.artifacts:
        parity = "-" if artifact.parity is None else f"{artifact.parity.error:.1e}"
        if artifact.parity_in_half is not None:
            parity += f" ({artifact.parity_in_half.error:.1e} in half arithmetic)"
        rows.add_row(
            artifact.path,
            artifact.backend,
            ", ".join(artifact.tasks),
            f"{artifact.bytes:,}",
            f"{artifact.precision} ({artifact.precision_source})",
            ", ".join(artifact.targets) or "-",
            parity,
        )
    for file in bundle.manifest.data:
        rows.add_row(file.path, "weights of the graphs", "", f"{file.bytes:,}", "", "", "")
    console.print(rows)
    emit(bundle.manifest.model_dump(mode="json"), json_path)


def _layers(always: bool, costs: Path | None) -> DeltaLayers | None:
    """Return which layers of sub-tasks run as base and delta, None if nothing was asked for."""
    from slimtask.export.paths import DeltaLayers
    from slimtask.kernels.costs import Costs

    if costs is None:
        return DeltaLayers(always=True) if always else None
    if always:
        raise InputError("--delta-nodes takes every layer that can, --costs only the faster ones; choose one of them.")
    try:
        found = Costs.read(costs)
    except ValueError as error:
        raise InputError(str(error)) from None
    if found.device.backend == "cpu":
        raise InputError(
            f"the costs in '{costs}' are of PyTorch's operators on a CPU, and there graphs run in ONNX Runtime, which "
            "makes dense weights of blocks and single entries; leave --costs out, or give those of the engine's GPU."
        )
    return DeltaLayers(costs=found)


def _exportable(network: Network, path: str) -> tuple[nn.Module, Preprocessing]:
    """Return the network in the form that an export takes, and its preprocessing. Raises InputError if it has none."""
    from slimtask.compress.network.by_task import TaskOutputs

    checkpoint = network.checkpoint
    if not checkpoint.tasks:
        raise InputError(
            f"'{path}' does not say what its outputs are, and a bundle must; give --tasks, a YAML list of name, kind "
            "and channels."
        )
    image = checkpoint.preprocessing
    if image is None or checkpoint.inputs not in ((), ((1, 3, image.height, image.width),)):
        shapes = ", ".join("x".join(map(str, shape)) for shape in checkpoint.inputs)
        raise InputError(
            f"a bundle takes one RGB image, 1x3xHEIGHTxWIDTH, but the network in '{path}' takes {shapes}; export it in "
            "Python with torch.onnx.export(rebuild(checkpoint, factory), ...)."
        )
    model = network.rebuild()
    return (TaskOutputs(model, checkpoint.tasks).eval() if checkpoint.foreign else model), image
