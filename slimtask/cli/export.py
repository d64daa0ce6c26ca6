"""`slimtask export`: a checkpoint to a bundle of ONNX graphs and engines, one execution path per task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, load_architectures, progress_bar, table, words


def export_verb(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint written by `slimtask train` or `compress`.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    paths: Annotated[str, typer.Option(help="Execution paths: fused, per-task.")] = "fused,per-task",
    to: Annotated[str, typer.Option(help="Formats: onnx, tensorrt, tensorrt-rtx.")] = "onnx",
    targets: Annotated[str | None, typer.Option(help="GPU targets of the engines, e.g. sm_86,sm_120.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    json_path: JsonOption = None,
) -> None:
    """Export ONNX graphs and engines, checked against PyTorch, with their manifest.

    Example: slimtask export small.safetensors --out bundle --to onnx,tensorrt-rtx
    """
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.rebuild import rebuild
    from slimtask.export.exporter import export_bundle
    from slimtask.files import refuse_existing

    refuse_existing(out)
    load_architectures()
    loaded = Checkpoint.load(checkpoint)
    with progress_bar("export") as progress:
        bundle = export_bundle(
            rebuild(loaded),
            out,
            preprocessing=loaded.preprocessing,
            paths=words(paths) or (),
            to=words(to) or (),
            targets=words(targets),
            precision=precision,
            provenance=loaded.provenance,
            progress=lambda text, done, total: progress(done, total, text),
        )
    rows = table(f"Bundle {out}", "file", "backend", "tasks", "bytes", "precision", "targets", "parity")
    for artifact in bundle.manifest.artifacts:
        parity = "-" if artifact.parity is None else f"{artifact.parity.error:.1e}"
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
