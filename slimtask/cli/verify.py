"""`slimtask verify`: is this checkpoint or bundle whole, and does it do what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import JsonOption, console, emit, working
from slimtask.cli.network import AlsoOption, ModelOption, only_for_foreign, open_checkpoint
from slimtask.errors import CheckFailed

if TYPE_CHECKING:
    from torch import nn


def verify_verb(
    path: Annotated[Path, typer.Argument(help="Bundle folder or checkpoint file.")],
    model: ModelOption = None,
    also: AlsoOption = None,
    json_path: JsonOption = None,
) -> None:
    """Check a bundle (hashes, graphs, weights, precision, paths against each other) or a checkpoint (loads, rebuilds).

    Example: slimtask verify runs/demo/bundle
    """
    if path.is_dir():
        only_for_foreign(path, model=model, also=also)
    with working(f"verifying {path}"):
        checks = _bundle(path) if path.is_dir() else _checkpoint(path, model, also)
    for name, holds, detail in checks:
        mark = "[green]ok[/green]  " if holds else "[red]FAILS[/red]"
        console.print(f"{mark} {name}: ", end="")
        console.print(detail, markup=False, highlight=False)
    told = [{"name": name, "holds": holds, "detail": detail} for name, holds, detail in checks]
    emit({"holds": all(check["holds"] for check in told), "checks": told}, json_path)
    failed = [name for name, holds, _ in checks if not holds]
    if failed:
        raise CheckFailed(f"'{path}' does not hold: {', '.join(failed)}; write it again from its source.")


def _bundle(path: Path) -> list[tuple[str, bool, str]]:
    from slimtask.export.verify import verify_bundle

    return [(check.name, check.holds, check.detail) for check in verify_bundle(path).checks]


def _checkpoint(path: Path, made_by: str | None, also: list[str] | None) -> list[tuple[str, bool, str]]:
    from slimtask.compress.network.look import look

    network = open_checkpoint(path, made_by, also)
    checkpoint, model = network.checkpoint, network.rebuild()
    runs = [look(model, x, _outputs, compute=True) for x in (checkpoint.example(), *checkpoint.further())]
    checks = [
        ("file", True, f"{len(checkpoint.weights)} tensors, all finite"),
        ("rebuild", True, f"{checkpoint.architecture.name} with {len(checkpoint.edits)} edits"),
        *(("forward", finite, shapes) for shapes, finite in runs),
    ]
    if "certificate" in checkpoint.provenance:
        checks.append(_certificate(checkpoint.provenance["certificate"]))
    return checks


def _outputs(model: nn.Module, inputs: Any) -> tuple[str, bool]:
    """Return the shapes of the outputs in words, and whether all are finite."""
    from slimtask.compress.network.inputs import call, named_outputs

    outputs = named_outputs(call(model, inputs))
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
    return shapes, all(bool(value.isfinite().all()) for value in outputs.values())


def _certificate(written: object) -> tuple[str, bool, str]:
    from pydantic import ValidationError

    from slimtask.compress.proof.certify import Certificate

    try:
        proof = Certificate.model_validate(written)
    except ValidationError as error:
        return "certificate", False, f"damaged ({error.errors()[0]['msg']})"
    return "certificate", proof.holds, f"largest relative difference {proof.max_rel_error:.1e} when it was written"
