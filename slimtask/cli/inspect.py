"""`slimtask inspect`: what is in a checkpoint, bundle or network of your own, in tables people can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import JsonOption, console, emit, show_unreached, table
from slimtask.cli.deltas import show_delta
from slimtask.cli.finetune import show_training
from slimtask.cli.masks import show_masks
from slimtask.cli.network import (
    AlsoOption,
    InputOption,
    ModelOption,
    Network,
    WeightsOption,
    only_for_foreign,
    open_checkpoint,
    open_foreign,
)
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.compress.removal.explain import Coverage


def inspect_verb(
    path: Annotated[Path | None, typer.Argument(help="Bundle folder, checkpoint, masks or delta file.")] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    shape: InputOption = None,
    also: AlsoOption = None,
    plot: Annotated[Path | None, typer.Option(help="Of masks: their overlap against depth (.png, .svg).")] = None,
    json_path: JsonOption = None,
) -> None:
    """Show what a checkpoint's layers lost and what may go, a bundle's files, or how far the tasks' masks overlap.

    Example: slimtask inspect runs/demo/levels/82/compressed.safetensors

    Example: slimtask inspect --model mynet:MyNet --input 1x3x224x224

    Example: slimtask inspect runs/disparse/masks.safetensors --plot iou.svg
    """
    from slimtask.compress.structures.delta_file import is_delta_file
    from slimtask.compress.structures.mask_file import is_mask_file

    if path is not None and is_mask_file(path):
        only_for_foreign(path, model=model, weights=weights, input=shape, also=also)
        emit(show_masks(path, plot), json_path)
        return
    if plot is not None:
        raise InputError("--plot draws the overlap of masks; give a masks file, such as a run's masks.safetensors.")
    if path is not None and is_delta_file(path):
        only_for_foreign(path, model=model, weights=weights, input=shape, also=also)
        emit(show_delta(path), json_path)
        return
    if path is None:
        if model is None:
            raise InputError("there is nothing to inspect; give a checkpoint, a bundle, or --model with --input.")
        emit(_network(open_foreign(model, weights, None, shape, also), "network"), json_path)
        return
    only_for_foreign(path, weights=weights, input=shape)
    if path.is_dir():
        only_for_foreign(path, model=model, also=also)
        emit(_bundle(path), json_path)
        return
    emit(_network(open_checkpoint(path, model, also), f"checkpoint {path}"), json_path)


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


def _network(network: Network, title: str) -> object:
    from slimtask.compress.api.models import cost
    from slimtask.compress.graph.analysis import analyse
    from slimtask.compress.graph.unreached import unreached_modules
    from slimtask.compress.removal.explain import coverage

    checkpoint = network.checkpoint
    model, example = network.rebuild(), checkpoint.example()
    size, architecture = cost(model, example), checkpoint.architecture
    arguments = f" {architecture.arguments}" if architecture.arguments else ""
    trunk = "" if size.trunk_params == size.params else f" ({size.trunk_params:,} in the trunk)"
    console.print(f"{title}: {architecture.name}{arguments}", markup=False)
    console.print(f"{size.params:,} parameters{trunk}, {size.flops:,} FLOPs an image")
    if checkpoint.tasks:
        rows = table("Tasks", "task", "kind", "channels", "metric", "loss weight")
        for task in checkpoint.tasks:
            rows.add_row(task.name, task.kind, str(task.channels), task.metric, f"{task.weight:g}")
        console.print(rows)
    layers = _edits(network)
    analysis = analyse(model, example, **network.also)
    covered = coverage(model, analysis.groups)
    _show_coverage(covered)
    unreached = unreached_modules(model, analysis.tapes)
    show_unreached(unreached)
    proof = checkpoint.provenance.get("certificate")
    if proof is not None:
        _show_certificate(proof)
    show_training(checkpoint.provenance)
    refused = [refusal.model_dump() for refusal in covered.refused]
    return {
        "architecture": architecture.model_dump(),
        "tasks": [task.model_dump() for task in checkpoint.tasks],
        "size": vars(size),
        "edits": list(checkpoint.edits),
        "layers": layers,
        "coverage": {**vars(covered), "refused": refused},
        "fixed_groups": refused,
        "unreached": list(unreached),
        "provenance": checkpoint.provenance,
    }


def _edits(network: Network) -> list[dict[str, Any]]:
    """Print what each plan cut of each layer, and return it."""
    from slimtask.compress.edits.deltas import DeltaPaths
    from slimtask.compress.edits.skip import SkipBlocks
    from slimtask.compress.graph.analysis import find_groups
    from slimtask.compress.rebuilding import replay
    from slimtask.compress.removal.explain import layer_rows
    from slimtask.compress.removal.plan import Plan

    cut = []
    for number, (before, edit) in enumerate(replay(network.checkpoint, network.factory), start=1):
        if not isinstance(edit, Plan):
            named = edit.blocks if isinstance(edit, SkipBlocks) else ()
            named = tuple(path.task for path in edit.paths) if isinstance(edit, DeltaPaths) else named
            console.print(f"edit {number}: {edit.kind} {', '.join(named)}".rstrip(), markup=False)
            continue
        try:
            groups = find_groups(before, network.checkpoint.example(), **network.also)
        except InputError:  # a network that looks at values cannot be traced before it has its weights
            groups = ()
        rows = layer_rows(before, edit, groups)
        shown = table("Layers that were cut (outputs x inputs)", "layer", "before", "after", "why", words=True)
        for row in rows:
            shown.add_row(row.layer, row.before, row.after, row.why)
        console.print(shown)
        for group in edit.groups:
            if group.note:
                console.print(f"  {group.name}: {group.note}", markup=False)
        cut += [{"edit": number, **vars(row)} for row in rows]
    return cut


def _show_coverage(covered: Coverage) -> None:
    console.print(str(covered), markup=False)
    held = table("Groups that stay whole", "group", "channels", "why", words=True)
    for refusal in covered.refused:
        held.add_row(refusal.group, str(refusal.channels), refusal.reason)
    console.print(held)


def _show_certificate(written: object) -> None:
    from pydantic import ValidationError

    from slimtask.compress.proof.certify import Certificate

    try:
        proof = Certificate.model_validate(written)
    except ValidationError as error:
        console.print(f"certificate: damaged ({error.errors()[0]['msg']})", markup=False)
        return
    console.print(
        f"certificate: {'holds' if proof.holds else 'DOES NOT HOLD'}, largest relative difference "
        f"{proof.max_rel_error:.1e} over {proof.inputs} inputs of {len(proof.sizes)} sizes"
    )
