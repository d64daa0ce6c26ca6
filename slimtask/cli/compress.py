"""`slimtask compress`: remove what training has zeroed, or what matters least until a budget is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from slimtask.cli.calibration import weighing_images
from slimtask.cli.common import JsonOption, console, emit, interruptible, show_unreached, table, words, working
from slimtask.cli.compress_options import alignment, check_choices, check_floor, check_one_input, check_per_task
from slimtask.cli.finetune import (
    DistilOption,
    FinetuneOption,
    RateOption,
    RecalibrateOption,
    RoundsOption,
    Wanted,
    cut_in_rounds,
    show_tuning,
)
from slimtask.cli.latency import BlocksOption, FloorOption, compress_measured, parse_budgets, show_paths
from slimtask.cli.network import (
    AlsoOption,
    InputOption,
    ModelOption,
    Network,
    TasksOption,
    WeightsOption,
    only_for_foreign,
    opened,
)
from slimtask.cli.per_task import compress_per_task, structure_of
from slimtask.cli.staircase import compress_by_table, show_speed_up
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.api.how import Prune, Zeros
    from slimtask.compress.api.models import Cost
    from slimtask.compress.removal.remove import Compressed
    from slimtask.compress.score.budget import Budget
    from slimtask.train.tune import Tuner

INTERRUPTED = "interrupted; nothing was written."


def compress_verb(
    out: Annotated[Path, typer.Option(help="The compressed checkpoint to write (.safetensors, .onnx).")],
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint, or an ONNX file (zeros only).")] = None,
    zeros: Annotated[bool, typer.Option("--zeros", help="Remove exactly what is zero (the default).")] = False,
    keep: Annotated[float | None, typer.Option(help="Budget: share of the removable channels.")] = None,
    params: Annotated[float | None, typer.Option(help="Budget: parameters, up to 1 a ratio.")] = None,
    flops: Annotated[float | None, typer.Option(help="Budget: FLOPs, up to 1 a ratio.")] = None,
    importance: Annotated[
        str | None, typer.Option(help="l2 (default), l1, batchnorm, taylor, snip, random; with a budget.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="global (default) or layer: equal shares everywhere.")] = None,
    vote: Annotated[str | None, typer.Option(help="Tasks decide together: all, min, mean, max.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Recipe whose data taylor, snip and training see.")] = None,
    recalibrate: RecalibrateOption = None,
    finetune: FinetuneOption = None,
    distil: DistilOption = None,
    lr: RateOption = None,
    rounds: RoundsOption = None,
    align: Annotated[
        str | None,
        typer.Option(help="Keep multiples of this many channels (8); auto: counts worth having, measured here."),
    ] = None,
    latency_ms: Annotated[
        str | None, typer.Option("--latency-ms", help="Budget: measured ms, of all or by path: all=12,depth=5.")
    ] = None,
    on: Annotated[str, typer.Option(help="The backend that --latency-ms is measured on.")] = "onnxruntime-cpu",
    blocks: BlocksOption = None,
    floor: FloorOption = None,
    per_task: Annotated[bool, typer.Option("--per-task", help="A network for each task, to the folder --out.")] = False,
    masks: Annotated[Path | None, typer.Option(help="With --per-task: masks per task (.safetensors).")] = None,
    policy: Annotated[Path | None, typer.Option(help="With --per-task: which task runs which block (.json).")] = None,
    sets: Annotated[str | None, typer.Option(help="With --per-task: further task sets, depth+edges,...")] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    tasks: TasksOption = None,
    shape: InputOption = None,
    also: AlsoOption = None,
    json_path: JsonOption = None,
) -> None:
    """Remove channels and prove that the smaller network computes what the larger one does without them.

    Example: slimtask compress runs/scenes70/checkpoint.safetensors --out runs/scenes70/small.safetensors

    Example: slimtask compress --model mynet:MyNet --weights w.pt --input 1x3x224x224 --flops 0.5 --out s.safetensors
    """
    paths = None if latency_ms is None else parse_budgets(latency_ms)
    budget = {
        name: value for name, value in (("keep", keep), ("params", params), ("flops", flops)) if value is not None
    }
    choices = {"importance": importance, "scope": scope, "vote": vote, "calibration": calibration, "blocks": blocks}
    choices = {name: value for name, value in choices.items() if value is not None}
    wanted = Wanted(recalibrate=recalibrate, finetune=finetune, distil=distil, lr=lr, rounds=rounds)
    masked, measured = per_task and masks is not None, paths is not None or align == "auto"
    scored = {name: value for name, value in choices.items() if name != "calibration" or not (masked and wanted.first)}
    check_choices(zeros, budget | ({} if paths is None else {"latency-ms": 0.0}), scored)
    check_per_task(per_task, bool(budget or paths or zeros), masks=masks, policy=policy, sets=sets)
    wanted.check(budgeted=bool(budget or paths), measured=measured, masked=masked)
    if checkpoint is not None and checkpoint.suffix == ".onnx":
        only_for_foreign(checkpoint, model=model, weights=weights, tasks=tasks, input=shape, also=also)
        if paths or per_task:
            raise InputError("of an ONNX file only zeros are removed; leave out --latency-ms and --per-task.")
        _onnx(checkpoint, out, budget, alignment(align), json_path)
        return
    if checkpoint is not None:
        only_for_foreign(checkpoint, tasks=tasks)
    programmed = paths is not None or (align == "auto" and "flops" in budget)
    check_floor(floor, programmed)
    network = opened(checkpoint, model, weights, tasks, shape, also)
    check_one_input(network, per_task or programmed)
    if per_task:
        structure = structure_of(masks, policy)
        made = compress_per_task(network, out, structure, words(sets) or (), alignment(align), wanted, calibration)
        emit(made, json_path)
    elif programmed:
        _measured(network, out, paths, on, budget, choices, align, floor, wanted, json_path)
    elif align == "auto":
        _by_table(network, out, budget, choices, wanted, json_path)
    else:
        _compress(network, out, budget, choices, alignment(align), wanted, json_path)


def _measured(
    network: Network,
    out: Path,
    paths: dict[str, float] | None,
    on: str,
    budget: dict[str, float],
    choices: dict[str, Any],
    align: str | None,
    floor: float | None,
    wanted: Wanted,
    json_path: Path | None,
) -> None:
    """Compress to latency budgets, or to FLOPs with counts off the measured staircase."""
    for name in ("scope", "vote"):
        if name in choices:
            raise InputError(f"--{name} is decided by the integer program of measured counts; leave it out.")
    from slimtask.bench.layers.meter import meter_of
    from slimtask.compress.api.how import ToFlops, ToLatency

    meter = meter_of(on)
    if paths is None:
        _budget(budget)  # refuses what is none
    with working("reading images"):
        images = weighing_images(network.checkpoint, choices.get("calibration"))
    details = _importance(network, choices, wanted, weighed=True) | {"images": images}
    details |= {} if floor is None else {"floor": floor}
    how: ToFlops | ToLatency
    if paths is None:
        how = ToFlops(budget["flops"], meter, **details)
    else:
        counts: Literal["auto"] | int = "auto" if align in (None, "auto") else alignment(align)
        how = ToLatency(paths, meter, align=counts, blocks=choices.get("blocks", True), **details)
    with interruptible(INTERRUPTED):
        tuner = wanted.tuner(network, choices.get("calibration"))
        smaller, done = compress_measured(network, how)
        smaller = tuner(smaller, 1) if tuner else smaller
    result = _written(network, smaller, (done.compressed,), out, tuner)
    emit(result | show_paths(done), json_path)


def _by_table(
    network: Network,
    out: Path,
    budget: dict[str, float],
    choices: dict[str, Any],
    wanted: Wanted,
    json_path: Path | None,
) -> None:
    """Remove zeros, or what matters least of channels or parameters, with counts off the measured staircase."""
    how = _how(network, budget, choices, wanted)
    with interruptible(INTERRUPTED):
        tuner = wanted.tuner(network, choices.get("calibration"))
        smaller, compressed, found = compress_by_table(network, how)
        smaller = tuner(smaller, 1) if tuner else smaller
    result = _written(network, smaller, (compressed,), out, tuner)
    emit(result | {"latency": show_speed_up(found)}, json_path)


def _compress(
    network: Network,
    out: Path,
    budget: dict[str, float],
    choices: dict[str, Any],
    align: int,
    wanted: Wanted,
    json_path: Path | None,
) -> None:
    """Remove zeros, or what matters least until a budget is met, in one cut or in rounds with training between."""
    from slimtask.compress.api.checkpoints import compress_checkpoint
    from slimtask.compress.api.how import Prune
    from slimtask.compress.api.rounds import compress_in_rounds

    how = replace(_how(network, budget, choices, wanted), align=align)
    with interruptible(INTERRUPTED):
        tuner = wanted.tuner(network, choices.get("calibration"))
        if tuner is None:
            with working("finding what may go, removing it, proving it"):
                smaller, compressed = compress_checkpoint(network.checkpoint, how, factory=network.factory)
            cuts: tuple[Compressed, ...] = (compressed,)
        else:
            assert isinstance(how, Prune)  # zeros need no training
            cut = partial(compress_in_rounds, network.checkpoint, how, rounds=tuner.rounds, factory=network.factory)
            smaller, cuts = cut_in_rounds(tuner, cut)
    emit(_written(network, smaller, cuts, out, tuner), json_path)


def _written(
    network: Network, smaller: Checkpoint, cuts: Sequence[Compressed], out: Path, tuner: Tuner | None
) -> dict[str, Any]:
    """Write the checkpoint, print what was done to it and return it as JSON."""
    from slimtask.compress.api.models import cost
    from slimtask.compress.rebuilding import rebuild
    from slimtask.files import new_files

    example = network.checkpoint.example()
    before, after = cost(network.rebuild(), example), cost(rebuild(smaller, network.factory), example)
    with new_files(out) as place:
        smaller.save(place)
    _show(cuts, before, after)
    result = {"checkpoint": str(out), "before": vars(before), "after": vars(after), **_proved(cuts[-1])}
    if len(cuts) > 1:
        result["rounds"] = [_proved(cut) for cut in cuts]
    if tuner is not None:
        result |= {"training": smaller.provenance["compressed"][-1]["training"], "validation": show_tuning(tuner)}
    return result


def _proved(compressed: Compressed) -> dict[str, Any]:
    """Return one cut and its proof as JSON."""
    proof = compressed.certificate
    return {
        "certificate": {**proof.model_dump(mode="json"), "max_rel_error": proof.max_rel_error, "holds": proof.holds},
        "plan": compressed.plan.model_dump(mode="json"),
    }


def _how(network: Network, budget: dict[str, float], choices: dict[str, Any], wanted: Wanted) -> Zeros | Prune:
    """Return how ``compress`` is to be done, but for the counts that groups may keep."""
    from slimtask.compress.api.how import Prune, Zeros

    if not budget:
        return Zeros()
    chosen, vote = _budget(budget), choices.get("vote")
    return Prune(chosen, scope=choices.get("scope", "global"), vote=vote, **_importance(network, choices, wanted))


def _budget(budget: dict[str, float]) -> Budget:
    """Return the Budget of the one option that was given; InputError if it is none."""
    from pydantic import ValidationError

    from slimtask.compress.score.budget import Budget

    try:
        return Budget(**budget)
    except ValidationError as error:
        (name, value), problem = next(iter(budget.items())), error.errors()[0]["msg"]
        example = "0.5" if name == "keep" else "0.5, or a count above 1"
        raise InputError(f"--{name} {value:g} is no budget ({problem.lower()}); give {example}.") from None


def _importance(network: Network, choices: dict[str, Any], wanted: Wanted, *, weighed: bool = False) -> dict[str, Any]:
    """Return the criterion of ``choices`` and, if it looks at the loss, its data.

    Where groups are ``weighed`` on images, as for latency, every criterion has a use for data.
    """
    from slimtask.cli.calibration import calibration
    from slimtask.compress.score.importance import GRADIENTS, check_criterion

    criterion = choices.get("importance", "l2")
    check_criterion(criterion)
    how: dict[str, Any] = {"by": criterion}
    if criterion in GRADIENTS:
        with working("reading calibration data"):
            how["calibration"], how["loss"] = calibration(network.checkpoint, choices.get("calibration"), criterion)
    elif "calibration" in choices and wanted.first is None and not weighed:
        raise InputError(f"--importance {criterion} looks at no data; leave out --calibration, or take taylor or snip.")
    return how


def _show(cuts: Sequence[Compressed], before: Cost, after: Cost) -> None:
    for number, cut in enumerate(cuts, start=1):
        if len(cuts) > 1:
            console.print(f"cut {number} of {len(cuts)}")
        console.print(str(cut.plan), markup=False, highlight=False)
    rows = table("Removed", "", "before", "after", "ratio")
    for name, old, new in (
        ("parameters", before.params, after.params),
        ("trunk parameters", before.trunk_params, after.trunk_params),
        ("FLOPs", before.flops, after.flops),
    ):
        if name != "trunk parameters" or before.trunk_params != before.params:
            rows.add_row(name, f"{old:,}", f"{new:,}", f"{old / new:.2f}" if new else "-")
    console.print(rows)
    for cut in cuts:
        _show_proof(cut.certificate)


def _show_proof(proof: Any) -> None:
    console.print(
        f"certificate: holds, largest relative difference {proof.max_rel_error:.1e} over {proof.inputs} inputs of "
        f"{len(proof.sizes)} size(s); {len(proof.refused)} group(s) stay whole"
    )
    for refusal in proof.refused:
        console.print(f"  {refusal.group} ({refusal.channels} channels): {refusal.reason}", markup=False)
    show_unreached(proof.unreached)


def _onnx(path: Path, out: Path, budget: dict[str, float], align: int, json_path: Path | None) -> None:
    """Compress an ONNX file: what is dead goes."""
    from slimtask.compress.onnx.compressing import compress_onnx
    from slimtask.files import new_files

    if budget:
        raise InputError(
            f"of an ONNX file only zeros are removed, without a budget (--{next(iter(budget))}); prune the network "
            "that it came from, by --model."
        )
    if out.suffix != ".onnx":
        raise InputError(f"an ONNX file becomes one; call the output '{out.with_suffix('.onnx')}'.")
    with working("finding what is dead, removing it, proving it"), new_files(out) as place:
        done = compress_onnx(path, place, align=align)
    rows = table("Removed channels", "group", "before", "after", "why", "note", words=True)
    for cut in done.removed:
        why = ", ".join(f"{count} {reason}" for reason, count in cut.removed.items())
        rows.add_row(cut.name, str(cut.before), str(cut.after), why, cut.note)
    console.print(rows)
    _show_proof(done.certificate)
    proof = done.certificate
    emit(
        {
            "files": [str(out.with_name(file.name)) for file in done.files],
            "removed": [cut.model_dump(mode="json") for cut in done.removed],
            "certificate": {
                **proof.model_dump(mode="json"),
                "max_rel_error": proof.max_rel_error,
                "holds": proof.holds,
            },
        },
        json_path,
    )
