"""`slimtask compress`: remove what training has zeroed, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, load_architectures, table, working


def compress_verb(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint written by `slimtask train`.")],
    out: Annotated[Path, typer.Option(help="The compressed checkpoint to write (.safetensors).")],
    zeros: Annotated[bool, typer.Option("--zeros", help="Remove exactly what is zero; nothing is re-scored.")] = True,
    align: Annotated[int, typer.Option(help="Keep a multiple of this many channels; 1 removes every dead one.")] = 8,
    json_path: JsonOption = None,
) -> None:
    """Remove the channels that training has zeroed and prove that the network computes the same.

    Example: slimtask compress runs/scenes70/checkpoint.safetensors --out runs/scenes70/small.safetensors
    """
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.compress import compress_checkpoint, cost, example_input
    from slimtask.compress.rebuild import rebuild
    from slimtask.files import refuse_existing

    refuse_existing(out)
    load_architectures()
    dense = Checkpoint.load(checkpoint)
    with working("finding what is dead, removing it, proving it"):
        smaller, compressed = compress_checkpoint(dense, align=align)
    before, after = (cost(rebuild(one), example_input(one)) for one in (dense, smaller))
    smaller.save(out)
    console.print(str(compressed.plan), markup=False, highlight=False)
    rows = table("Removed", "", "before", "after", "ratio")
    for name, old, new in (
        ("parameters", before.params, after.params),
        ("trunk parameters", before.trunk_params, after.trunk_params),
        ("FLOPs", before.flops, after.flops),
    ):
        rows.add_row(name, f"{old:,}", f"{new:,}", f"{old / new:.2f}")
    console.print(rows)
    proof = compressed.certificate
    console.print(
        f"certificate: holds, largest relative difference {proof.max_rel_error:.1e} over {proof.inputs} inputs of "
        f"{len(proof.sizes)} sizes; {len(proof.refused)} groups stay whole"
    )
    for refusal in proof.refused:
        console.print(f"  {refusal.group} ({refusal.channels} channels): {refusal.reason}", markup=False)
    emit(
        {
            "checkpoint": str(out),
            "before": vars(before),
            "after": vars(after),
            "certificate": {
                **proof.model_dump(mode="json"),
                "max_rel_error": proof.max_rel_error,
                "holds": proof.holds,
            },
            "plan": compressed.plan.model_dump(mode="json"),
        },
        json_path,
    )
