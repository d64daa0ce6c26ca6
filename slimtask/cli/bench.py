"""`slimtask bench`: the latency of bundles, interleaved in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, progress_bar


def bench_verb(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles to time.")],
    backend: Annotated[str, typer.Option(help="onnxruntime-cpu or onnxruntime-cuda.")] = "onnxruntime-cpu",
    against: Annotated[Path | None, typer.Option(help="The bundle to compare with, usually the dense one.")] = None,
    rounds: Annotated[int, typer.Option(min=5, max=1_000_000, help="Samples per path.")] = 40,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; all cores by default.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Time every path of the bundles, interleaved, medians with spread; ratios are against the first (or --against).

    Example: slimtask bench runs/demo/levels/82/bundle --against runs/demo/levels/dense/bundle
    """
    from slimtask.bench.bench import table, verdicts
    from slimtask.bench.bundles import bench_bundles
    from slimtask.bench.timing.environment import environment

    chosen = [*([] if against is None else [against]), *bundles]
    with progress_bar(f"bench {backend}") as progress:
        result = bench_bundles(
            chosen,
            backend=backend,
            rounds=rounds,
            threads=threads,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print(table(result))
    for said in verdicts(result):
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    emit({**result.to_json(), "environment": environment()}, json_path)
