"""Exact removal: what is zero goes, what cannot go exactly stays and is named, and a certificate proves the rest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtask.compress.analysis import Analysis, analyse
from slimtask.compress.certify import Certificate, Refusal, certificate_inputs, certify
from slimtask.compress.constants import read_constants
from slimtask.compress.counts import Align, check_align
from slimtask.compress.fitting import fit
from slimtask.compress.fold import plan_fold
from slimtask.compress.groups import Group
from slimtask.compress.inputs import Inputs, map_tensors, tensors_of
from slimtask.compress.masked import masked
from slimtask.compress.plan import Plan
from slimtask.compress.surgery import Cut, make_cut, own_tensors_
from slimtask.compress.trace import named_tensors, shared_copy, unused
from slimtask.compress.zeros import find_dead
from slimtask.errors import CheckFailed


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A physically smaller network, the plan that cut it, and the proof that it computes the same."""

    model: nn.Module
    plan: Plan
    certificate: Certificate


def remove_zeros(model: nn.Module, example: Inputs, *, align: Align = 1) -> Compressed:
    """Return a copy of ``model`` without the channels that its weights have made dead; ``model`` is left as it is.

    ``example`` is a valid input: one tensor, a tuple of positional or a dictionary of keyword arguments. Each group
    keeps a multiple of ``align`` channels, or the next of the counts that it gives the group by name, or all; that is
    filled up with dead ones.

    Nothing is scored: a channel goes only if its readers ignore it or see a constant in it (``constants.py``,
    ``fold.py``). Every removal is checked on several inputs and two sizes; a group whose removal is not exact to 1e-5
    is put back and named in the certificate. Raises CheckFailed if even then the networks differ.
    """
    dense, example, device = _on_cpu(model, example)
    analysis = analyse(dense, example)
    working, tape, groups = analysis.model, analysis.tape, analysis.groups
    check_align(align, groups)
    refused = [Refusal(group=g.name, channels=g.channels, reason=why) for g in groups if (why := _closed(g))]
    open_groups = [group for group in groups if not _closed(group)]
    dead = find_dead(working, open_groups, read_constants(tape, named_tensors(working)), unused(tape, working))
    cuts = []
    for group, state in zip(open_groups, dead, strict=True):
        fold = plan_fold(group, state, working, align)
        cuts.append(Cut(group=group, keep=fold.keep, reasons=fold.reasons, note=fold.note, fold=fold))
        if stuck := int(state.silent.sum()):
            why = "dead, but what its readers see is not one constant"
            refused.append(Refusal(group=group.name, channels=stuck, reason=why))
    return _certified(analysis, dense, dense, cuts, example, refused, device)


def remove_channels(
    model: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    keep: Sequence[Tensor],
    *,
    why: str = "low score",
    thorough: bool = True,
) -> Compressed:
    """Return a copy of ``model`` with, of each of its ``groups``, only the channels where ``keep[g]`` is true.

    ``keep[g]`` is boolean, [channels of group g]. The removed channels need not be zero: the certificate compares with
    the dense network in which they are masked (``masked.py``). Groups that are refused, or without which the network's
    code does not run, stay whole and are named. A large network is certified sooner, on fewer inputs, if that need not
    be ``thorough``. Raises CheckFailed if the networks differ.
    """
    dense, example, device = _on_cpu(model, example)
    refused = [Refusal(group=g.name, channels=g.channels, reason=g.refused) for g in groups if g.refused]
    cuts = [
        Cut(group=group, keep=stays.cpu(), reasons={why: int((~stays).sum())} if bool((~stays).any()) else {})
        for group, stays in zip(groups, keep, strict=True)
        if group.refused is None
    ]
    return _certified(analyse(dense, example), dense, None, cuts, example, refused, device, thorough)


def _certified(
    analysis: Analysis,
    dense: nn.Module,
    reference: nn.Module | None,
    cuts: Sequence[Cut],
    example: Inputs,
    refused: Sequence[Refusal],
    device: torch.device,
    thorough: bool = True,
) -> Compressed:
    """Return the cut network if it computes what ``reference`` does, the masked dense network if that is None."""
    found = fit(analysis, cuts, example)
    good = found.good
    kept_whole = [cut for cut in cuts if bool(cut.keep.all())]
    refused = [*refused, *(_refusal(cut, reason) for cut, reason in found.lost)]
    inputs = certificate_inputs(dense, example, seed=1, thorough=thorough)

    def attempt(chosen: Sequence[Cut]) -> Compressed | str:
        smaller, plan = make_cut(dense, chosen, found.sizes)
        expected = masked(dense, chosen) if reference is None else reference
        try:
            certificate = certify(expected, smaller, inputs, refused=refused)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:  # what the trace runs differs from this
            return f"the network does not run without them: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if not certificate:
            return f"it changes an output by {certificate.max_rel_error:.1e}"
        return Compressed(model=smaller, plan=plan, certificate=certificate)

    done = attempt([*good, *kept_whole])
    if isinstance(done, str):
        verdicts = [(cut, attempt([cut])) for cut in good]
        refused += [_refusal(cut, verdict) for cut, verdict in verdicts if isinstance(verdict, str)]
        done = attempt([*(cut for cut, verdict in verdicts if not isinstance(verdict, str)), *kept_whole])
    if isinstance(done, str):
        raise CheckFailed(f"the removal is not exact ({done}); nothing was written.")
    own_tensors_(done.model, dense)
    done.model.to(device)
    return done


def _closed(group: Group) -> str | None:
    """Return why even dead channels of the group must stay, None if they may go."""
    if group.refused is None and group.normalised is not None:
        return f"the normalisation '{group.normalised}' takes its mean over them"
    return group.refused


def _refusal(cut: Cut, reason: str) -> Refusal:
    return Refusal(group=cut.group.name, channels=int((~cut.keep).sum()), reason=reason)


def _on_cpu(model: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs, torch.device]:
    """Return the network and the example on the CPU, where no TF32 blurs comparisons, and where they came from."""
    device = next((tensor.device for tensor in (*model.parameters(), *tensors_of(example))), torch.device("cpu"))
    if device.type == "cpu":
        dense = shared_copy(model).eval()
        return dense, example, device
    return copy.deepcopy(model).cpu().eval(), map_tensors(Tensor.cpu, example), device
