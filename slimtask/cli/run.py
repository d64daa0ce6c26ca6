"""`slimtask run`: predictions of a bundle on images, as pictures and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slimtask.cli.common import JsonOption, console, emit, progress_bar, words


def run_verb(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `slimtask export`.")],
    images: Annotated[list[Path], typer.Argument(help="Image files (PNG, JPEG, BMP, TIFF, WebP).")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and arrays.")] = Path("predictions"),
    tasks: Annotated[str | None, typer.Option(help="Comma-separated task names; all by default.")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime-cpu, onnxruntime-cuda, tensorrt, tensorrt-rtx.")] = (
        "onnxruntime-cpu"
    ),
    resize: Annotated[bool, typer.Option("--resize", help="Resample images of another size.")] = False,
    json_path: JsonOption = None,
) -> None:
    """Run a bundle on images: per image and task a picture (PNG) and the raw output (NPY).

    They are called IMAGE_TASK.png and IMAGE_TASK.npy, and 1-IMAGE_TASK.png where two images would share a file.

    Example: slimtask run runs/demo/bundle runs/demo/images/00000.png --out predictions
    """
    from slimtask.export.predict import predict
    from slimtask.images import shown

    with progress_bar("run") as progress:
        results = predict(bundle, images, out, tasks=words(tasks), backend=backend, resize=resize, progress=progress)
    for result in results.images:
        console.print(f"{shown(result.image)}: {', '.join(result.summary)}", markup=False)
        console.print(f"  overview {shown(result.overview)}", markup=False)
    console.print(f"path: {results.choice}", markup=False)
    written: dict[str, Any] = results.model_dump(mode="json")
    emit(written, json_path)
