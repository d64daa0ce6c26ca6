"""Which options of `slimtask compress` go together, and what a number for --align may be."""

from __future__ import annotations

from typing import Any

from slimtask.cli.network import Network
from slimtask.errors import InputError

DEFAULT_ALIGN = 8
"""The count that vector units and tensor cores take at once."""


def check_choices(zeros: bool, budget: dict[str, float], choices: dict[str, Any]) -> None:
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


def check_floor(floor: float | None, programmed: bool) -> None:
    """Raise InputError if --floor is no share, or the integer program of measured counts has no part in it."""
    if floor is not None and not (programmed and 0 <= floor <= 1):
        raise InputError(
            "--floor is the least share, 0 to 1, of a group's channels under --latency-ms, or --flops with --align "
            "auto; add one of them, or leave it out."
        )


def check_one_input(network: Network, asked: bool) -> None:
    """Raise InputError if further inputs were given to what is ``asked`` and follows one alone."""
    if network.checkpoint.also and asked:
        raise InputError(
            "--per-task, --latency-ms and --align auto with --flops follow one input; leave out --also, or compress to "
            "another budget."
        )


def check_per_task(per_task: bool, budgeted: bool, **options: object) -> None:
    """Raise InputError if --per-task comes with a budget, or one of its options without it."""
    given = next((name for name, value in options.items() if value is not None), None)
    if not per_task and given is not None:
        raise InputError(f"--{given} says what each task needs; add --per-task.")
    if per_task and budgeted:
        raise InputError("--per-task removes what a task does not need, without a budget; leave the budget out.")


def alignment(text: str | None) -> int:
    """Return the count that --align names; InputError if it is none."""
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
