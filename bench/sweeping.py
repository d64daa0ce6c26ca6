"""The `sweep` verb: one recipe at several sparsity levels, each trained, compressed, certified, exported and timed."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimtask.bench.bench import Bench, Candidate, bench_artifacts
from slimtask.bench.report.findings import best_level
from slimtask.bench.report.schema import CertificateSummary, Engine, Latency, LayerWidth, Level, Report
from slimtask.bench.timing.environment import environment
from slimtask.checkpoint import Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint, example_input
from slimtask.compress.api.how import Zeros
from slimtask.compress.api.models import Cost, cost
from slimtask.compress.network.probes import certificate_inputs
from slimtask.compress.proof.certify import Certificate, certify
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.removal.plan import GroupCut
from slimtask.errors import InputError
from slimtask.export.bundle import FUSED, Bundle
from slimtask.export.exporter import export_bundle
from slimtask.files import refuse_existing, write_json

DENSE = "dense"
Progress = Callable[[int, int, str], None]
Scores = dict[str, dict[str, float | None]]
Stages = Callable[[str], Progress]
"""Called with a stage's name, returns the progress callback of that stage."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One level after training, compression and export."""

    name: str
    checkpoint: Checkpoint
    bundle: Bundle
    certificate: Certificate
    cuts: tuple[GroupCut, ...]
    group_sparsity: float
    size: Cost
    validation: Scores
    test: Scores
    reached: bool
    history: list[dict[str, Any]]


def sweep(
    recipe: Any,
    out: Path | str,
    *,
    levels: Sequence[float] = (0.5, 0.7, 0.9),
    backends: Sequence[str] = ("onnxruntime-cpu", "pytorch-cpu"),
    engines: Sequence[str] = (),
    align: int = 8,
    rounds: int = 40,
    resume: bool = False,
    command: str = "",
    stages: Stages | None = None,
) -> Report:
    """Return the report of a dense network against one network per sparsity level, all of equal training budget.

    ``recipe`` is a slimtask.train.recipe.Recipe with a sparsity section; ``levels`` are its targets. All runs share
    the dense warm-up; removal keeps multiples of ``align`` channels. ``out`` gets levels/NAME/ (run, compressed
    checkpoint, bundle), bundle/ (the best level, with ``engines`` built, e.g. "tensorrt-rtx"), images/ to try it on,
    report.json, report.html and samples.json. The report's scores are those of the test split; the best level is chosen
    on validation. ``resume`` continues a stopped sweep.
    Raises InputError for bad input, CheckFailed where a removal or an export is not exact.

    Examples:
        >>> from slimtask.bench import sweep
        >>> from slimtask.train import load_recipe
        >>> report = sweep(load_recipe("scenes"), "runs/sweep", levels=[0.5, 0.7])  # doctest: +SKIP
        >>> [(level.name, level.delta_m) for level in report.levels]  # doctest: +SKIP
    """
    import slimtask.train.models  # noqa: F401  registers the architectures, also when every level is already trained
    from slimtask.bench.report.html import write_report
    from slimtask.bench.report.showcase import scenes_of
    from slimtask.train.data.config import open_dataset
    from slimtask.train.data.pictures import write_images

    out, stages = Path(out), stages or (lambda name: lambda done, total, text: None)
    if not resume:
        refuse_existing(out)
    check_levels(recipe, levels)
    trained = [_dense(recipe, out, stages)]
    trained += [_sparse(recipe, out, target, align, stages) for target in levels]
    benches = [_bench(trained, backend, rounds, stages(f"bench {backend}")) for backend in backends]
    report = _report(trained, benches, recipe, command)
    name = choose(report, {one.name: one.validation for one in trained})
    chosen = next(one for one in trained if one.name == name)
    bundle = _export(chosen.checkpoint, out / "bundle", ("onnx", *engines), stages("export the best level"))
    report = report.model_copy(update={"engines": _engines(bundle), "notes": _notes(trained, chosen)})
    test = open_dataset(recipe.data, "test")
    write_images(test, range(min(4, len(test))), out / "images")
    report.save(out / "report.json")
    write_json(out / "samples.json", [bench.to_json() for bench in benches])
    write_report(report, out / "report.html", scenes_of(recipe, trained[0].bundle, chosen.bundle, chosen.name))
    return report


def check_levels(recipe: Any, levels: Sequence[float]) -> None:
    """Raise InputError unless the recipe is a sparse one and the levels are distinct fractions in (0, 1)."""
    if recipe.sparsity is None or recipe.sparsity.target is None:
        raise InputError(
            "a sweep varies sparsity.target, but the recipe has none; add a sparsity section with a target."
        )
    if not levels or len(set(levels)) != len(levels) or not all(0 < level < 1 for level in levels):
        raise InputError(f"--levels takes distinct sparsities between 0 and 1, e.g. 0.5,0.7,0.9, not {list(levels)}.")


def level_name(target: float) -> str:
    """Return a level's folder name: its target in per cent, e.g. ``70``."""
    return f"{100 * target:g}"


def _dense(recipe: Any, out: Path, stages: Stages) -> Trained:
    folder = out / "levels" / DENSE
    fork_at = int(recipe.sparsity.warmup * recipe.train.steps)
    dense = recipe.model_copy(update={"sparsity": None})
    checkpoint = _trained(dense, folder, stages(f"train {DENSE}"), fork_at=fork_at)
    model = rebuild(checkpoint)
    proof = certify(model, copy.deepcopy(model), certificate_inputs(model, example_input(checkpoint)))
    return Trained(
        name=DENSE,
        checkpoint=checkpoint,
        bundle=_export(checkpoint, folder / "bundle", ("onnx",), stages(f"export {DENSE}")),
        certificate=proof,
        cuts=(),
        group_sparsity=0.0,
        size=cost(model, example_input(checkpoint)),
        **_scores(checkpoint),
        history=_history(folder),
    )


def _sparse(recipe: Any, out: Path, target: float, align: int, stages: Stages) -> Trained:
    name = level_name(target)
    folder, fork = out / "levels" / name, out / "levels" / DENSE / "fork.safetensors"
    config = recipe.model_copy(update={"sparsity": recipe.sparsity.model_copy(update={"target": target})})
    checkpoint = _trained(config, folder, stages(f"train {name} %"), fork=fork)
    smaller, compressed = compress_checkpoint(checkpoint, Zeros(align=align), dense_is_fine=True)
    smaller.save(folder / "compressed.safetensors")
    return Trained(
        name=f"{name} %",
        checkpoint=smaller,
        bundle=_export(smaller, folder / "bundle", ("onnx",), stages(f"export {name} %")),
        certificate=compressed.certificate,
        cuts=compressed.plan.groups,
        group_sparsity=checkpoint.provenance["sparsity"]["group_sparsity"],
        size=cost(compressed.model, example_input(smaller)),
        **_scores(checkpoint),
        history=_history(folder),
    )


def _trained(recipe: Any, folder: Path, progress: Progress, **fork: Any) -> Checkpoint:
    """Return a level's checkpoint: read if it is finished, resumed if it was stopped, else trained."""
    from slimtask.train.run import train

    finished = folder / "checkpoint.safetensors"
    if not finished.exists():
        train(recipe, folder, resume=(folder / "recipe.yaml").exists(), progress=progress, **fork)
    return Checkpoint.load(finished)


def _scores(checkpoint: Checkpoint) -> dict[str, Any]:
    facts = checkpoint.provenance
    return {"validation": facts["validation"], "test": facts["test"], "reached": facts["target_reached"]}


def choose(report: Report, validation: dict[str, Scores]) -> str:
    """Return the name of the fastest level that keeps the accuracy, judged on ``validation`` scores by level name.

    It is the sparsest level if none does. The report's own scores, of the test split, play no part.
    """
    from slimtask.train.metrics import delta_m

    dense = validation[report.levels[0].name]
    judged = tuple(
        level.model_copy(update={"delta_m": delta_m(validation[level.name], dense, report.tasks)})
        for level in report.levels
    )
    best = best_level(report.model_copy(update={"levels": judged}))
    return report.levels[-1].name if best is None else best.name


def _notes(trained: Sequence[Trained], chosen: Trained) -> tuple[str, ...]:
    missed = [one.name for one in trained if not one.reached]
    notes = [f"The bundle holds the level {chosen.name}, chosen on the validation split; scores are of the test split."]
    return (*notes, *(f"The level {name} did not reach its sparsity target." for name in missed))


def _export(checkpoint: Checkpoint, out: Path, to: Sequence[str], progress: Progress) -> Bundle:
    assert checkpoint.preprocessing is not None  # it was trained on images
    shutil.rmtree(out, ignore_errors=True)  # left by a sweep that was stopped later
    return export_bundle(
        rebuild(checkpoint),
        out,
        preprocessing=checkpoint.preprocessing,
        to=to,
        provenance=checkpoint.provenance,
        progress=lambda text, done, total: progress(done, total, text),
    )


def _bench(trained: Sequence[Trained], backend: str, rounds: int, progress: Progress) -> Bench:
    candidates = [candidate for one in trained for candidate in _candidates(one, backend)]
    size = trained[0].checkpoint.preprocessing
    assert size is not None
    return bench_artifacts(
        candidates,
        backend=backend,
        shape=(1, 3, size.height, size.width),
        rounds=rounds,
        progress=lambda done, total: progress(done, total, ""),
    )


def _candidates(one: Trained, backend: str) -> list[Candidate]:
    """Return what is timed of one level: the module for PyTorch, else every graph of the bundle."""
    widths = tuple(cut.after for cut in one.cuts)
    whole = Candidate(level=one.name, artifact=None, params=one.size.params, flops=one.size.flops, channels=widths)
    if backend.startswith("pytorch"):
        return [whole.model_copy(update={"artifact": rebuild(one.checkpoint)})]
    return [
        whole.model_copy(update={"artifact": one.bundle.path / artifact.path})
        if artifact.role == FUSED
        else Candidate(level=one.name, artifact=one.bundle.path / artifact.path, path=artifact.role, channels=widths)
        for artifact in one.bundle.artifacts("onnx")
    ]


def _report(trained: Sequence[Trained], benches: Sequence[Bench], recipe: Any, command: str) -> Report:
    from slimtask.train.metrics import delta_m

    dense = trained[0]
    tasks = dense.checkpoint.tasks
    levels = []
    for one in trained:
        score = delta_m(one.test, dense.test, tasks)
        levels.append(
            Level(
                name=one.name,
                sparsity=1 - one.size.trunk_params / dense.size.trunk_params,
                group_sparsity=one.group_sparsity,
                params=one.size.params,
                flops=one.size.flops,
                flop_ratio=dense.size.flops / one.size.flops,
                metrics={task: dict(scores) for task, scores in one.test.items()},
                delta_m=score if math.isfinite(score) else None,
                latency_ms={bench.backend: Latency.of(bench, one.name) for bench in benches},
                certificate=CertificateSummary(
                    max_rel_error=one.certificate.max_rel_error, holds=one.certificate.holds
                ),
                layers=tuple(LayerWidth(name=cut.name, before=cut.before, after=cut.after) for cut in one.cuts),
            )
        )
    return Report(
        levels=tuple(levels),
        environment=environment(),
        title=f"slimtask: {recipe.name}",
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tasks=tasks,
        history={one.name: one.history for one in trained if one.cuts},
    )


def _engines(bundle: Bundle) -> tuple[Engine, ...]:
    return tuple(
        Engine(
            backend=artifact.backend,
            path=artifact.path,
            tasks=artifact.tasks,
            bytes=artifact.bytes,
            precision=artifact.precision,
            targets=artifact.targets,
        )
        for backend in ("tensorrt", "tensorrt-rtx")
        for artifact in bundle.artifacts(backend)
    )


def _history(folder: Path) -> list[dict[str, Any]]:
    from slimtask.train.history import read_history

    keys = {"step": "step", "loss": "loss", "sparsity/group_sparsity": "group_sparsity"}
    keys |= {"sparsity/parameter_sparsity": "parameter_sparsity", "sparsity/strength": "strength"}
    return [
        {short: record[key] for key, short in keys.items() if key in record}
        for record in read_history(folder / "metrics.jsonl")
        if record["kind"] == "train"
    ]
