"""Exact removal: what is zero goes, what cannot go exactly stays and is named, and a certificate proves the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import Analysis, analyse
from slimtask.compress.graph.constants import agreed, read_constants
from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.unreached import unreached_modules
from slimtask.compress.network.apart import first_line
from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.inputs import Inputs, map_tensors, tensors_of
from slimtask.compress.network.probes import certificate_inputs
from slimtask.compress.network.trace import named_tensors, refuse_unfit
from slimtask.compress.proof.certify import Certificate, Refusal, certify
from slimtask.compress.removal.attempts import largest
from slimtask.compress.removal.dead import find_dead
from slimtask.compress.removal.fitting import fit, sizes_of
from slimtask.compress.removal.fold import absorb_, plan_fold
from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.reference import kept_places, mask_
from slimtask.compress.removal.sized import ModuleSizes
from slimtask.compress.removal.surgery import Cut, make_cut
from slimtask.compress.score.cost import count_parameters
from slimtask.compress.score.counts import Align, check_align
from slimtask.errors import CheckFailed, SlimtaskError

THOROUGH = 12_000_000
"""Up to so many parameters a certificate looks at twelve inputs by itself, of larger networks at one of each size."""
_SMALL = 5_000_000  # parameters
_ATTEMPTS = {True: 24, False: 8}


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A physically smaller network, the plan that cut it, and the proof that it computes the same.

    Examples:
        >>> from slimtask.compress import Budget, prune
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> done = prune(net, zeros(1, 3, 8, 8), budget=Budget(keep=0.5))
        >>> done.model[0], bool(done.certificate)
        (Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)), True)
    """

    model: nn.Module
    plan: Plan
    certificate: Certificate


def remove_zeros(model: nn.Module, example: Inputs, *, align: Align = 1, also: Sequence[Inputs] = ()) -> Compressed:
    """Return a copy of ``model`` without the channels that its weights have made dead; ``model`` is left as it is.

    ``example`` is a valid input: one tensor, a tuple of positional or a dictionary of keyword arguments. Each group
    keeps a multiple of ``align`` channels, or the next of the counts that it gives the group by name, or all; that is
    filled up with dead ones.

    Nothing is scored: a channel goes only if its readers ignore it or see a constant in it (``constants.py``,
    ``fold.py``). Every removal is checked on several inputs and two sizes; a group whose removal is not exact to 1e-5
    is put back and named in the certificate. Raises CheckFailed if even then the networks differ.

    Examples:
        >>> import torch
        >>> from slimtask.compress import remove_zeros
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1))
        >>> net[0].weight.data[10:] = 0
        >>> print(remove_zeros(net, torch.zeros(1, 3, 8, 8)).plan)
        0: 16 -> 10 (6 zero)
    """
    dense, example = _on_cpu(model, example)
    analysis = analyse(dense, example, also)
    working, groups = analysis.model, analysis.groups
    check_align(align, groups)
    refused = [Refusal(group=g.name, channels=g.channels, reason=why) for g in groups if (why := _closed(g))]
    open_groups = [group for group in groups if not _closed(group)]
    reads = [read_constants(tape, named_tensors(working)) for tape in analysis.evaluated]
    dead = find_dead(working, open_groups, agreed(reads), analysis.idle())
    cuts = []
    for group, state in zip(open_groups, dead, strict=True):
        fold = plan_fold(group, state, working, align)
        cuts.append(Cut(group=group, keep=fold.keep, reasons=fold.reasons, note=fold.note, fold=fold))
        if stuck := int(state.silent.sum()):
            why = "dead, but what its readers see is not one constant"
            refused.append(Refusal(group=group.name, channels=stuck, reason=why))
    return _certified(model, dense, analysis, cuts, example, refused, masked=False)


def remove_channels(
    model: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    keep: Sequence[Tensor],
    *,
    why: str = "low score",
    also: Sequence[Inputs] = (),
    thorough: bool | None = None,
    analysis: Analysis | None = None,
) -> Compressed:
    """Return a copy of ``model`` with, of each of its ``groups``, only the channels where ``keep[g]`` is true.

    ``keep[g]`` is boolean, [channels of group g]. The removed channels need not be zero: the certificate compares with
    the dense network in which they are masked (``masked.py``). Groups that are refused, or without which the network's
    code does not run, stay whole and are named. The proof looks at twelve inputs if it is to be ``thorough`` (None: up
    to ``THOROUGH`` parameters), else at one of each size. ``analysis`` is that of ``model`` on these inputs, if there
    is one already. Raises CheckFailed if the networks differ.
    """
    dense, example = _on_cpu(model, example)
    refused = [Refusal(group=g.name, channels=g.channels, reason=g.refused) for g in groups if g.refused]
    cuts = [
        Cut(group=group, keep=stays.cpu(), reasons={why: int((~stays).sum())} if bool((~stays).any()) else {})
        for group, stays in zip(groups, keep, strict=True)
        if group.refused is None
    ]
    analysis = analysis or analyse(dense, example, also)
    return _certified(model, dense, analysis, cuts, example, refused, masked=True, thorough=thorough)


def _certified(
    model: nn.Module,
    dense: nn.Module,
    analysis: Analysis,
    cuts: Sequence[Cut],
    example: Inputs,
    refused: Sequence[Refusal],
    *,
    masked: bool,
    thorough: bool | None = None,
) -> Compressed:
    """Return the cut network if it computes what ``model`` does, with what is cut ``masked`` in it if so asked.

    ``dense`` is a copy of ``model`` on the CPU.
    """
    fitted = fit(analysis, cuts)
    whole = [cut for cut in cuts if bool(cut.keep.all())]
    refused = [*refused, *(_refusal(cut, reason) for cut, reason in fitted.lost)]
    thorough = count_parameters(dense) <= THOROUGH if thorough is None else thorough
    inputs = certificate_inputs(dense, example, also=_further(analysis), seed=1, thorough=thorough)
    unreached = unreached_modules(dense, analysis.tapes)

    told = {sizes.module for sizes in fitted.sizes}

    def attempt(chosen: Sequence[Cut]) -> Compressed | str:
        found = made(chosen, told)
        more = {sizes.module for sizes in sizes_of(analysis, chosen)} - told if isinstance(found, str) else set()
        return made(chosen, told | more) if more else found  # a slice of the right length may be the wrong one

    def made(chosen: Sequence[Cut], told: Collection[str]) -> Compressed | str:
        try:
            smaller, plan = _cut(dense, [*chosen, *whole], sizes_of(analysis, chosen, told))
            plan = plan.model_copy(update={"unreached": unreached})
            found = kept_places(analysis, chosen) if masked else []
            certificate = certify(
                model,
                smaller,
                inputs,
                mask=(lambda net: mask_(net, chosen)) if masked and chosen else None,
                places=found,
                unreached=unreached,
            )
        except SlimtaskError as error:
            return str(error).removesuffix(".").removesuffix("; nothing was written")
        except Exception as error:  # the plan is of a trace, and the code may not do as traced
            return f"the cut cannot be made ({type(error).__name__}: {first_line(error)})"
        return Compressed(model=smaller, plan=plan, certificate=certificate) if certificate else certificate.complaint

    done, back = largest(fitted.good, attempt, _ATTEMPTS[count_parameters(dense) < _SMALL])
    if isinstance(done, str):
        raise CheckFailed(f"the removal is not exact ({done}); nothing was written.")
    refused += [_refusal(cut, reason) for cut, reason in back]
    proof = done.certificate.model_copy(update={"refused": tuple(refused)})
    return replace(done, model=done.model.to(_device(model, example)), certificate=proof)


def _further(analysis: Analysis) -> list[Inputs]:
    """Return the inputs, beside the example, that the proof must look at: all on which something was cut along."""
    passes = zip(analysis.tapes, analysis.inputs, strict=True)
    return [inputs for tape, inputs in passes if not tape.training][1:]


def _cut(dense: nn.Module, cuts: Sequence[Cut], sizes: Sequence[ModuleSizes]) -> tuple[nn.Module, Plan]:
    """Return a cut copy of ``dense`` that shares nothing with it, not even closures of hooks, and its plan."""
    _, plan = make_cut(dense, cuts, sizes)
    smaller = independent_copy(dense)
    for cut in cuts:
        if cut.fold is not None:
            absorb_(cut.group, cut.fold, smaller)
    plan.apply_(smaller)
    return smaller, plan


def _closed(group: Group) -> str | None:
    """Return why even dead channels of the group must stay, None if they may go."""
    if group.refused is None and group.normalised is not None:
        if group.normalised.startswith("'"):  # no module, an operation: 'softmax' in a module
            return f"{group.normalised} is taken over all of them, dead or not"
        return f"the normalisation '{group.normalised}' takes its mean over them"
    return group.refused


def _refusal(cut: Cut, reason: str) -> Refusal:
    return Refusal(group=cut.group.name, channels=int((~cut.keep).sum()), reason=reason)


def _on_cpu(model: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
    """Return a copy of the network, in evaluation, and the example, on the CPU, where no TF32 blurs comparisons.

    The copy shares nothing with the network, for ``eval()`` may change tensors in place (as LoRA's does).
    """
    refuse_unfit(model)
    return independent_copy(model).cpu().eval(), map_tensors(Tensor.cpu, example)


def _device(model: nn.Module, example: Inputs) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *tensors_of(example))), torch.device("cpu"))
