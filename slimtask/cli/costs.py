"""`slimtask costs`: measure on this machine what the layers of a delta checkpoint take, for `export --costs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from slimtask.cli.common import JsonOption, console, emit, interruptible, progress_bar, table
from slimtask.cli.network import open_checkpoint


def costs_verb(
    checkpoint: Annotated[Path, typer.Argument(help="Delta checkpoint written by `slimtask train`.")],
    on: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the device's file lies; else $SLIMTASK_COSTS or ~/.cache/slimtask/costs."
        ),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Time every way to execute the layers of a network with sparse deltas, and say which is the fastest here.

    Example: slimtask costs runs/delta/checkpoint.safetensors --on cuda --precision fp16
    """
    from slimtask.bench.layers.delta_costs import measure_costs
    from slimtask.errors import InputError
    from slimtask.export.paths import has_deltas
    from slimtask.files import refuse_unwritable
    from slimtask.kernels.costs import costs_folder, costs_path
    from slimtask.kernels.dispatch import choose

    if on not in ("cpu", "cuda"):
        raise InputError(f"costs are measured on cpu or cuda, not on '{on}'.")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file, and costs lie in a folder, a file for each device; give another path.")
    refuse_unwritable(costs_folder(out))
    opened = open_checkpoint(checkpoint, None)
    network, image = opened.rebuild(), opened.checkpoint.preprocessing
    if not has_deltas(network):
        raise InputError(f"the network in '{checkpoint}' has no deltas, so there is nothing to choose between.")
    with interruptible("interrupted; the costs measured so far are kept."), progress_bar("costs") as progress:
        costs, problems = measure_costs(
            network,
            backend=cast("Literal['cpu', 'cuda']", on),
            precision=precision,
            size=None if image is None else (image.height, image.width),
            folder=out,
            progress=lambda done, total: progress(done, total, ""),
        )
    rows = table(f"On {costs.device}", "inputs", "outputs", "tokens", "deltas", "changed", "fastest", "ms", "dense")
    result = []
    for problem in problems:
        choice = choose(problem, costs)
        times = {each.candidate: each.ms for each in choice.alternatives if each.ms and each.source == "measured"}
        dense = min(times[name] for name in ("dense", "batched") if name in times)
        rows.add_row(
            *(str(number) for number in (problem.inputs, problem.outputs, problem.tokens, problem.deltas)),
            f"{problem.density:.1%} {problem.pattern}",
            choice.candidate,
            f"{choice.expected_ms:.4g}",
            f"{dense:.4g}",
        )
        result.append({**problem.to_json(), "ms": times, "fastest": choice.candidate})
    console.print(rows)
    path = costs_path(costs.device, out)
    console.print(f"costs: {path}", soft_wrap=True, markup=False, highlight=False)
    if on == "cpu":
        console.print("These are PyTorch's operators, for SharedViT in Python; `export --costs` takes those of a GPU.")
    emit({"schema": 1, "device": costs.device.to_json(), "file": str(path), "problems": result}, json_path)
