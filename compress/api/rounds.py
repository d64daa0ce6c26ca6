"""Pruning in several rounds with training between them, down to the same budget as one cut."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.how import Prune
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.removal.remove import Compressed
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.errors import InputError

Between = Callable[[Checkpoint, int], Checkpoint]


def compress_in_rounds(
    checkpoint: Checkpoint,
    how: Prune,
    *,
    rounds: int,
    between: Between,
    factory: Callable[[], nn.Module] | None = None,
) -> tuple[Checkpoint, tuple[Compressed, ...]]:
    """Return the checkpoint that meets the budget of ``how`` after ``rounds`` cuts, and every cut with its certificate.

    Every round keeps the same share of what the one before left, so that the last one ends at the budget that a single
    cut would meet; ``between(checkpoint, round)`` returns the checkpoint trained after each (rounds count from 1).
    Several small cuts with training between them lose less than one large one (Han et al., NeurIPS 2015, section 3).
    A round whose budget is met already, as channels go in blocks of ``align``, is left out. Batches of
    ``how.calibration`` are looked at in every round, so give a list.

    Raises InputError, before ``between`` is called for the first time, if the budget cannot be met.

    Examples:
        >>> from slimtask import Architecture, Checkpoint
        >>> from slimtask.compress import Budget, Prune, compress_in_rounds
        >>> from torch import nn
        >>> def make():
        ...     return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> own, weights = Architecture(name="mynet:make", arguments={}), make().state_dict()
        >>> dense = Checkpoint(weights=weights, architecture=own, tasks=(), preprocessing=None, inputs=((1, 3, 8, 8),))
        >>> def train(checkpoint, number):
        ...     return checkpoint  # trained on, in earnest
        >>> how = Prune(Budget(keep=0.25), align=4)
        >>> smaller, cuts = compress_in_rounds(dense, how, rounds=2, between=train, factory=make)
        >>> [str(cut.plan) for cut in cuts]
        ['0: 16 -> 8 (8 of low l2 score)', '0: 8 -> 4 (4 of low l2 score)']
    """
    if rounds < 1:
        raise InputError(f"pruning takes at least one round, not {rounds}.")
    if rounds > 1:  # a single cut tells whether the budget can be met, before hours of training
        compress_checkpoint(checkpoint, how, factory=factory)
    budget = how.budget
    dense, example, also = rebuild(checkpoint, factory), checkpoint.example(), checkpoint.further()
    cuts: list[Compressed] = []
    closed: set[str] = set()
    model = dense
    for number in range(1, rounds + 1):
        before, now = (_size(net, example, budget, closed, also) for net in (dense, model))
        share = round_share(budget, before, now, number, rounds)
        if rounds > 1 and share >= 1:
            continue
        chosen = budget if rounds == 1 else Budget.model_validate({_field(budget): share})
        checkpoint, cut = compress_checkpoint(checkpoint, replace(how, budget=chosen), factory=factory)
        if rounds > 1:
            checkpoint = _told(checkpoint, cut, {"round": number, "rounds": rounds})
        checkpoint = between(checkpoint, number)
        cuts.append(cut)
        closed |= {refusal.group for refusal in cut.certificate.refused}
        model = cut.model
    return checkpoint, tuple(cuts)


def round_share(budget: Budget, dense: float, now: float, number: int, rounds: int) -> float:
    """Return the share of ``now`` that round ``number`` (from 1) may leave of a network that was ``dense`` once.

    The limits fall geometrically from ``dense`` to the budget's own, which is that of the last round. Above 1 the
    round's limit is met already.
    """
    last = budget.limit(dense)
    return last / now if number == rounds else dense * (last / dense) ** (number / rounds) / now


def _field(budget: Budget) -> str:
    return {"channels": "keep", "parameters": "params", "FLOPs": "flops"}[budget.of]


def _size(model: nn.Module, example: Inputs, budget: Budget, closed: Collection[str], also: Sequence[Inputs]) -> float:
    """Return what the budget counts of ``model``: parameters, FLOPs, or the channels of the groups that may be cut."""
    if budget.params is not None:
        return float(count_parameters(model))
    if budget.flops is not None:
        return float(count_flops(model, example))
    groups = find_groups(model, example, also)
    return float(sum(group.channels for group in groups if group.refused is None and group.name not in closed))


def _told(checkpoint: Checkpoint, cut: Compressed, facts: dict[str, Any]) -> Checkpoint:
    """Return ``checkpoint`` with the round and its certificate told beside the cut's other facts."""
    *earlier, last = checkpoint.provenance["compressed"]
    last = {**last, **facts, "certificate": json_safe(cut.certificate.model_dump())}
    return checkpoint.with_changes(provenance={**checkpoint.provenance, "compressed": [*earlier, last]})
