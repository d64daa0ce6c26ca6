"""Which files of a bundle serve a set of tasks. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from slimtask.errors import InputError
from slimtask.export.bundle import FUSED, Artifact, Bundle
from slimtask.tasks import select_tasks

# What a backend of the runtime runs; ONNX Runtime's two differ in the device only.
STORED_AS = {
    "onnxruntime-cpu": "onnx",
    "onnxruntime-cuda": "onnx",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}


def select_artifacts(bundle: Bundle, tasks: Sequence[str] | None, backend: str) -> tuple[tuple[Artifact, ...], str]:
    """Return the artifacts to load for ``tasks`` (all for None) and one sentence that says which and why.

    One task runs from its own file. Several run from the fused file, which computes the trunk once; their own files,
    each with its trunk, serve only where there is no fused one. Raises InputError if the bundle has neither.
    """
    names = [task.name for task in select_tasks(bundle.manifest.tasks, tasks)]
    if not names:
        raise InputError("no task was asked for; name at least one, or leave the choice out for all of them.")
    stored = bundle.artifacts(STORED_AS[backend])
    if not stored:
        has = sorted({artifact.backend for artifact in bundle.manifest.artifacts})
        raise InputError(
            f"the bundle '{bundle.path}' has nothing for backend '{backend}', only {', '.join(has)}; "
            f"export it with --to {STORED_AS[backend]}."
        )
    own = {artifact.role: artifact for artifact in stored if artifact.role != FUSED}
    fused = next((artifact for artifact in stored if artifact.role == FUSED and {*names} <= {*artifact.tasks}), None)
    asked = ", ".join(names)
    if len(names) == 1 and names[0] in own:
        return (own[names[0]],), f"{asked} from its own file {own[names[0]].path}"
    if fused is not None:
        rest = [name for name in fused.tasks if name not in names]
        also = f" (it also computes {', '.join(rest)})" if rest else ""
        return (fused,), f"{asked} from the fused file {fused.path}{also}"
    if set(names) <= set(own):
        return tuple(own[name] for name in names), f"{asked} from one file each, for want of a fused one"
    missing = [name for name in names if name not in own]
    raise InputError(
        f"the bundle '{bundle.path}' has no {STORED_AS[backend]} file that serves {', '.join(missing)}; "
        "export it with --paths fused,per-task."
    )
