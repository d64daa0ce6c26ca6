"""Exact removal: what is zero goes, what cannot go exactly stays and is named, and a certificate proves the rest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from slimtask.compress.certify import Certificate, Probes, Refusal, certificate_inputs, certify
from slimtask.compress.fold import Fold, absorb_, plan_fold
from slimtask.compress.groups import Group, find_groups
from slimtask.compress.plan import GroupCut, Plan, plan_from_keep
from slimtask.compress.zeros import find_dead
from slimtask.errors import CheckFailed


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A physically smaller network, the plan that cut it, and the proof that it computes the same."""

    model: nn.Module
    plan: Plan
    certificate: Certificate


def remove_zeros(model: nn.Module, example: Float[Tensor, "batch 3 height width"], *, align: int = 1) -> Compressed:
    """Return a copy of ``model`` without the channels that its weights have made dead; ``model`` is left as it is.

    Each group keeps a multiple of ``align`` channels (or all), filled up with dead ones.

    Nothing is scored: a channel goes only if its readers ignore it or its writers are zero (``zeros.py``, ``fold.py``).
    Every removal is checked on several inputs and two sizes; a group whose removal is not exact to 1e-5 is put back and
    named in the certificate. Raises CheckFailed if even then the networks differ.
    """
    device = example.device
    model, example = copy.deepcopy(model).cpu().eval(), example.cpu()  # a GPU's TF32 would blur the comparison
    probes, inputs = certificate_inputs(model, example, seed=0), certificate_inputs(model, example, seed=1)
    groups = find_groups(model, example)
    open_groups = [group for group in groups if group.refused is None]
    dead = find_dead(model, open_groups, probes.all)
    folds = [plan_fold(group, state, model, align) for group, state in zip(open_groups, dead, strict=True)]
    refused = [Refusal(group=g.name, channels=g.channels, reason=g.refused) for g in groups if g.refused]
    refused += [
        Refusal(group=group.name, channels=fold.stuck, reason="dead, but what its readers see is not one constant")
        for group, fold in zip(open_groups, folds, strict=True)
        if fold.stuck
    ]
    cuts = list(zip(open_groups, folds, strict=True))
    done = _attempt(model, cuts, inputs, refused)
    if isinstance(done, str):
        exact, inexact = _separate(model, cuts, inputs)
        done = _attempt(model, exact, inputs, refused + inexact)
    if isinstance(done, str):
        raise CheckFailed(f"the removal is not exact ({done}); nothing was written.")
    done.model.to(device)
    return done


Cuts = list[tuple[Group, Fold]]


def _attempt(model: nn.Module, cuts: Cuts, inputs: Probes, refused: Sequence[Refusal] = ()) -> Compressed | str:
    """Return the network cut as ``cuts`` say if that is exact, else why it is not."""
    try:
        smaller, plan = _cut(model, [group for group, _ in cuts], [fold for _, fold in cuts])
        certificate = certify(model, smaller, inputs, refused=refused)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:  # a coupling the trace did not see
        return f"the network does not run without them: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if not certificate:
        return f"it changes an output by {certificate.max_rel_error:.1e}"
    return Compressed(model=smaller, plan=plan, certificate=certificate)


def _cut(model: nn.Module, groups: Sequence[Group], folds: Sequence[Fold]) -> tuple[nn.Module, Plan]:
    """Return a cut copy of ``model`` and the plan that cut it."""
    smaller = copy.deepcopy(model)
    gained = [name for group, fold in zip(groups, folds, strict=True) for name in absorb_(group, fold, smaller)]
    cuts = [
        GroupCut(
            name=group.name, before=group.channels, after=int(fold.keep.sum()), removed=fold.reasons, note=fold.note
        )
        for group, fold in zip(groups, folds, strict=True)
    ]
    plan = plan_from_keep(smaller, groups, [fold.keep for fold in folds], cuts)
    layers = [layer.model_copy(update={"adds_bias": layer.module in gained}) for layer in plan.layers]
    plan = plan.model_copy(update={"layers": tuple(layers)})
    plan.apply_(smaller)
    return smaller, plan


def _separate(model: nn.Module, cuts: Cuts, inputs: Probes) -> tuple[Cuts, list[Refusal]]:
    """Return the cuts that are exact one by one, and a Refusal for each other one."""
    exact, refused = [], []
    for group, fold in cuts:
        done = _attempt(model, [(group, fold)], inputs)
        if isinstance(done, str):
            refused.append(Refusal(group=group.name, channels=int((~fold.keep).sum()), reason=done))
        else:
            exact.append((group, fold))
    return exact, refused
