"""Whether a copy stands on its own: overwritten tensors of the user's network must leave what it computes alone."""

from __future__ import annotations

from torch import nn

from slimtask.compress.network.apart import apart
from slimtask.compress.network.contents import tensors_in
from slimtask.compress.network.draws import FixedDraws
from slimtask.compress.network.inputs import Inputs, map_tensors
from slimtask.compress.network.sites import Passes
from slimtask.compress.proof.sidebyside import Measured, Pair, digest, overwritten, run_once, wide, widen_
from slimtask.errors import CheckFailed


def check_self_contained(pair: Pair, probe: Inputs, found: Measured) -> None:
    """Raise CheckFailed, with the tensor's name, if code of the smaller network still reaches one of the user's.

    ``found`` is what was measured on ``probe`` before. Nothing is changed: all of it happens in a process apart.
    """
    if found.alone:
        return
    before, count = found.digest, len(tensors_in(pair.own))

    def changes(low: int, high: int) -> bool:
        return bool(apart(lambda: _after(pair, probe, found.half, low, high)) != before)

    if not changes(0, count):
        return
    if changes(0, 0):
        raise CheckFailed(
            f"{type(pair.own).__name__} computes something else every time it runs on the same input, so nothing can "
            "be proven of a smaller one; make it deterministic in evaluation."
        )
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if changes(low, middle) else (middle, high)
    raise CheckFailed(
        f"the copy of {type(pair.own).__name__} is not self-contained: its code still reaches "
        f"{_name(pair.own, low)} of the network it was made from, through a module global or a "
        "closure; reach it through 'self' instead."
    )


def _after(pair: Pair, probe: Inputs, half: bool, low: int, high: int) -> str:
    """Return what the smaller network computes once the user's tensors ``low`` to ``high`` are overwritten."""
    pair = pair.apart()
    if half:
        for network in (pair.own, pair.smaller):
            widen_(network)
        probe = map_tensors(wide, probe)
    with overwritten(tensors_in(pair.own)[low:high]):
        try:
            return digest(run_once(pair.smaller, probe, Passes(pair.smaller), FixedDraws()))
        except Exception:  # it computes nothing any more
            return ""


def _name(model: nn.Module, number: int) -> str:
    """Return what the user calls the tensor of that number, in words."""
    tensor = tensors_in(model)[number]
    named = [*model.named_parameters(), *model.named_buffers()]
    return next((f"'{name}'" for name, each in named if each is tensor), "a tensor that an attribute holds")
