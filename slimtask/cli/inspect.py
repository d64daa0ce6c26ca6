"""`slimtask inspect`: what is in a checkpoint or bundle, in tables people can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, load_architectures, table


def inspect_verb(
    path: Annotated[Path, typer.Argument(help="Bundle folder or checkpoint file.")], json_path: JsonOption = None
) -> None:
    """Show tasks, size, removed channels and what was refused (checkpoint), or files, precision and parity (bundle).

    Example: slimtask inspect runs/demo/levels/82/compressed.safetensors
    """
    emit(_bundle(path) if path.is_dir() else _checkpoint(path), json_path)


def _bundle(path: Path) -> object:
    from slimtask.export.bundle import Bundle

    manifest = Bundle.open(path).manifest
    size = manifest.preprocessing
    console.print(f"bundle {path}: RGB images of {size.width} x {size.height} pixels", markup=False)
    rows = table("Outputs", "task", "kind", "shape", "unit")
    for output in manifest.outputs:
        rows.add_row(output.name, output.kind, str(list(output.shape)), output.unit)
    console.print(rows)
    files = table("Files", "file", "backend", "role", "bytes", "precision", "targets", "parity")
    for artifact in manifest.artifacts:
        parity = "not run here" if artifact.parity is None else f"{artifact.parity.error:.1e}"
        targets = ", ".join(artifact.targets) or "-"
        files.add_row(
            artifact.path, artifact.backend, artifact.role, f"{artifact.bytes:,}", artifact.precision, targets, parity
        )
    for file in manifest.data:
        files.add_row(file.path, "weights", "-", f"{file.bytes:,}", "-", "-", "-")
    console.print(files)
    return manifest.model_dump(mode="json")


def _checkpoint(path: Path) -> object:
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.compress import cost, example_input
    from slimtask.compress.groups import find_groups
    from slimtask.compress.rebuild import plans_of, rebuild

    checkpoint = Checkpoint.load(path)
    load_architectures()
    model, example = rebuild(checkpoint), example_input(checkpoint)
    size = cost(model, example)
    console.print(
        f"checkpoint {path}: {checkpoint.architecture.name} {checkpoint.architecture.arguments}", markup=False
    )
    console.print(f"{size.params:,} parameters ({size.trunk_params:,} in the trunk), {size.flops:,} FLOPs an image")
    rows = table("Tasks", "task", "kind", "channels", "metric", "loss weight")
    for task in checkpoint.tasks:
        rows.add_row(task.name, task.kind, str(task.channels), task.metric, f"{task.weight:g}")
    console.print(rows)
    for plan in plans_of(checkpoint):
        cuts = table("Removed channels", "group", "before", "after", "why", "note", words=True)
        for cut in plan.groups:
            why = ", ".join(f"{count} {reason}" for reason, count in cut.removed.items())
            cuts.add_row(cut.name, str(cut.before), str(cut.after), why, cut.note)
        console.print(cuts)
    fixed = [group for group in find_groups(model, example) if group.refused]
    held = table("Groups that stay whole", "group", "channels", "why", words=True)
    for group in fixed:
        held.add_row(group.name, str(group.channels), group.refused or "")
    console.print(held)
    return {
        "architecture": checkpoint.architecture.model_dump(),
        "tasks": [task.model_dump() for task in checkpoint.tasks],
        "size": vars(size),
        "edits": list(checkpoint.edits),
        "fixed_groups": [{"group": g.name, "channels": g.channels, "reason": g.refused} for g in fixed],
        "provenance": checkpoint.provenance,
    }
