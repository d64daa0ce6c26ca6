"""`slimtask compress`: remove what training has zeroed, or what matters least until a budget is met."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.calibration import weighing_images
from slimtask.cli.common import JsonOption, console, emit, interruptible, show_unreached, table, words, working
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
from slimtask.cli.latency import (
    BlocksOption,
    FloorOption,
    compress_to_flops,
    compress_to_latency,
    parse_budgets,
    show_paths,
)
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
    from slimtask.compress.api.models import Cost
    from slimtask.compress.removal.remove import Compressed
    from slimtask.train.tune import Tuner

INTERRUPTED = "interrupted; nothing was written."
DEFAULT_ALIGN = 8
"""The count that vector units and tensor cores take at once."""


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
    _check_choices(zeros, budget | ({} if paths is None else {"latency-ms": 0.0}), scored)
    _check_per_task(per_task, bool(budget or paths or zeros), masks=masks, policy=policy, sets=sets)
    wanted.check(budgeted=bool(budget or paths), measured=measured, masked=masked)
    if checkpoint is not None and checkpoint.suffix == ".onnx":
        only_for_foreign(checkpoint, model=model, weights=weights, tasks=tasks, input=shape, also=also)
        if paths or per_task:
            raise InputError("of an ONNX file only zeros are removed; leave out --latency-ms and --per-task.")
        _onnx(checkpoint, out, budget, _alignment(align), json_path)
        return
    if checkpoint is not None:
        only_for_foreign(checkpoint, tasks=tasks)
    programmed = paths is not None or (align == "auto" and "flops" in budget)
    _check_floor(floor, programmed)
    network = opened(checkpoint, model, weights, tasks, shape, also)
    _check_one_input(network, per_task or programmed)
    if per_task:
        structure = structure_of(masks, policy)
        made = compress_per_task(network, out, structure, words(sets) or (), _alignment(align), wanted, calibration)
        emit(made, json_path)
    elif programmed:
        _measured(network, out, paths, on, budget, choices, align, floor, wanted, json_path)
    elif align == "auto":
        _by_table(network, out, budget, choices, wanted, json_path)
    else:
        _compress(network, out, budget, choices, _alignment(align), wanted, json_path)


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
    if paths is None:
        _how(network, budget, {}, wanted)  # refuses what is no budget
    with working("reading images"):
        images = weighing_images(network.checkpoint, choices.get("calibration"))
    how = _importance(network, choices, wanted, weighed=True) | {"images": images}
    how |= {} if floor is None else {"floor": floor}
    with interruptible(INTERRUPTED):
        tuner = wanted.tuner(network, choices.get("calibration"))
        if paths is None:
            smaller, done = compress_to_flops(network, budget["flops"], how)
        else:
            counts = None if align in (None, "auto") else _alignment(align)
            smaller, done = compress_to_latency(
                network, paths, on, counts, how | {"blocks": choices.get("blocks", True)}
            )
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
    how = _how(network, budget, choices, wanted) | network.also
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
    from slimtask.compress.api.rounds import compress_in_rounds

    how = _how(network, budget, choices, wanted) | network.also | {"align": align, "factory": network.factory}
    with interruptible(INTERRUPTED):
        tuner = wanted.tuner(network, choices.get("calibration"))
        if tuner is None:
            with working("finding what may go, removing it, proving it"):
                smaller, compressed = compress_checkpoint(network.checkpoint, **how)
            cuts: tuple[Compressed, ...] = (compressed,)
        else:
            cut = partial(compress_in_rounds, network.checkpoint, rounds=tuner.rounds, **how)
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


def _how(network: Network, budget: dict[str, float], choices: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Return the arguments of ``compress`` beside the network."""
    from pydantic import ValidationError

    from slimtask.compress.score.budget import Budget

    if not budget:
        return {}
    try:
        chosen = Budget(**budget)
    except ValidationError as error:
        (name, value), problem = next(iter(budget.items())), error.errors()[0]["msg"]
        example = "0.5" if name == "keep" else "0.5, or a count above 1"
        raise InputError(f"--{name} {value:g} is no budget ({problem.lower()}); give {example}.") from None
    chosen_how = {"budget": chosen, "scope": choices.get("scope", "global"), "vote": choices.get("vote")}
    return chosen_how | _importance(network, choices, wanted)


def _importance(network: Network, choices: dict[str, Any], wanted: Wanted, *, weighed: bool = False) -> dict[str, Any]:
    """Return the criterion of ``choices`` and, if it looks at the loss, its data.

    Where groups are ``weighed`` on images, as for latency, every criterion has a use for data.
    """
    from slimtask.cli.calibration import calibration
    from slimtask.compress.score.importance import GRADIENTS, check_criterion

    criterion = choices.get("importance", "l2")
    check_criterion(criterion)
    how: dict[str, Any] = {"criterion": criterion}
    if criterion in GRADIENTS:
        with working("reading calibration data"):
            how["calibration"], how["loss"] = calibration(network.checkpoint, choices.get("calibration"), criterion)
    elif "calibration" in choices and wanted.first is None and not weighed:
        raise InputError(f"--importance {criterion} looks at no data; leave out --calibration, or take taylor or snip.")
    return how


def _check_choices(zeros: bool, budget: dict[str, float], choices: dict[str, Any]) -> None:
    """Raise InputError unless exactly one of zeros (the default) and the three budgets is asked for."""
    asked = [*(["zeros"] if zeros else []), *budget]
    if len(asked) > 1:
        raise InputError(f"--{asked[0]} and --{asked[1]} are two ways to say how much goes; give one of them.")
    if "blocks" in choices and "latency-ms" not in budget:
        raise InputError("only a latency budget removes whole blocks; add --latency-ms, or leave --[no-]blocks out.")
    if choices and not budget:
        name = next(iter(choices))
        raise InputError(
            f"--{name} needs a budget, as zeros are not scored; add --keep, --params or --flops 0.5, or --latency-ms."
        )


def _check_floor(floor: float | None, programmed: bool) -> None:
    """Raise InputError if --floor is no share, or the integer program of measured counts has no part in it."""
    if floor is not None and not (programmed and 0 <= floor <= 1):
        raise InputError(
            "--floor is the least share, 0 to 1, of a group's channels under --latency-ms, or --flops with --align "
            "auto; add one of them, or leave it out."
        )


def _check_one_input(network: Network, asked: bool) -> None:
    """Raise InputError if further inputs were given to what is ``asked`` and follows one alone."""
    if network.checkpoint.also and asked:
        raise InputError(
            "--per-task, --latency-ms and --align auto with --flops follow one input; leave out --also, or compress to "
            "another budget."
        )


def _check_per_task(per_task: bool, budgeted: bool, **options: object) -> None:
    """Raise InputError if --per-task comes with a budget, or one of its options without it."""
    given = next((name for name, value in options.items() if value is not None), None)
    if not per_task and given is not None:
        raise InputError(f"--{given} says what each task needs; add --per-task.")
    if per_task and budgeted:
        raise InputError("--per-task removes what a task does not need, without a budget; leave the budget out.")


def _alignment(text: str | None) -> int:
    if text is None:
        return DEFAULT_ALIGN
    if text == "auto":
        raise InputError(
            "--align auto takes counts off a table measured with one network; of an ONNX file and with --per-task give "
            "a number."
        )
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 6 and int(text) >= 1):
        raise InputError(f"--align takes a count of channels, 1 or more, or auto, not '{text}'.")
    return int(text)


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
