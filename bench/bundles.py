"""The `bench` verb as a function: every path of several bundles on one backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from slimtask.bench.bench import Bench, Candidate, bench_artifacts
from slimtask.errors import InputError
from slimtask.export.bundle import Bundle


def bench_bundles(
    paths: Sequence[Path | str],
    *,
    backend: str = "onnxruntime-cpu",
    rounds: int = 40,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bench:
    """Return the interleaved measurement of every ONNX path of the bundles; the first bundle is the baseline.

    Every bundle's hashes are verified first. Raises InputError for a bundle given twice or with another input size.

    Examples:
        >>> from slimtask import Preprocessing, TaskSpec
        >>> from slimtask.bench import bench_bundles
        >>> from slimtask.compress import TaskOutputs
        >>> from slimtask.export import export_bundle
        >>> from torch import nn
        >>> net = TaskOutputs(nn.Conv2d(3, 1, 1), [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> _ = export_bundle(net, "bundle", preprocessing=Preprocessing(height=16, width=16), paths=["fused"])
        >>> [row.path for row in bench_bundles(["bundle"], rounds=5, threads=1).rows]
        ['fused']
    """
    names = [str(path) for path in paths]
    if len({os.path.realpath(name) for name in names}) != len(names):
        raise InputError("the same bundle is given twice; name each bundle once.")
    bundles = [Bundle.open(path) for path in paths]
    shapes = {bundle.manifest.inputs[0].shape for bundle in bundles}
    if len(shapes) != 1:
        raise InputError(f"the bundles take inputs of different shapes {sorted(shapes)}; compare those of one shape.")
    for bundle in bundles:
        bundle.verify()
    candidates = [
        Candidate(level=name, artifact=bundle.path / artifact.path, path=artifact.role)
        for name, bundle in zip(names, bundles, strict=True)
        for artifact in bundle.artifacts("onnx")
    ]
    return bench_artifacts(candidates, backend=backend, rounds=rounds, threads=threads, progress=progress)
