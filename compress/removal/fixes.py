"""Which answers the size calls of a module need once channels are gone, from the dense tape and its coupling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from slimtask.compress.graph.axes import Array
from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.network.tape import Ref, Site
from slimtask.compress.removal.answers import full_index
from slimtask.compress.removal.sized import ModuleSizes, SizeFix

VALUED = ("arange", "linspace", "rand", "randn")
"""New tensors whose entries differ: the first n of them are not those of the channels that stay."""

Values = Mapping[int, tuple[int, ...]]


class Contradiction(Exception):
    """Two passes through a module would need different answers, or a call takes a channel that goes."""


def size_fixes(coupling: Coupling, kept: Array) -> dict[str, ModuleSizes]:
    """Return by name the fixes of every module that needs some; one whose calls contradict each other has none.

    ``kept`` [atoms] says what stays. A module that finds its sizes by itself is none the worse for being told them.
    """
    needs: dict[str, dict[str, SizeFix | None]] = {}
    broken: set[str] = set()
    for index, tape in enumerate(coupling.tapes):
        for site in tape.sites:
            try:
                fix = _fix(coupling, index, site, kept)
            except Contradiction:
                broken.add(site.module)
                continue
            known = needs.setdefault(site.module, {})
            if site.at in known and known[site.at] != fix:
                broken.add(site.module)
            known.setdefault(site.at, fix)
    found = {}
    for module, fixes in needs.items():
        wanted = _by_place(fixes)
        if wanted and module not in broken:
            found[module] = ModuleSizes(module=module, fixes=tuple(sorted(wanted, key=lambda fix: fix.at)))
    return found


def _by_place(fixes: Mapping[str, SizeFix | None]) -> list[SizeFix]:
    """Return the fixes; of a place whose every turn has the same one only that, for however many turns there are."""
    places: dict[str, list[SizeFix | None]] = {}
    for at, fix in fixes.items():
        places.setdefault(at.partition("#")[0], []).append(fix)
    found = []
    for place, turns in places.items():
        first = turns[0]
        if first is not None and all(fix is not None and _same(fix, first) for fix in turns):
            found.append(first.model_copy(update={"at": place}))
        else:
            found += [fix for fix in turns if fix is not None]
    return found


def _same(one: SizeFix, other: SizeFix) -> bool:
    return one.kind == other.kind and one.values == other.values


def valued(coupling: Coupling, kept: Array) -> set[str]:
    """Return the modules that make tensors along channels of which some go, with entries that differ."""
    return {
        site.module
        for index, tape in enumerate(coupling.tapes)
        for site in tape.sites
        if site.kind == "factory"
        and site.function in VALUED
        and coupling.shape(index, site.outputs[0], kept) != site.outputs[0].shape
    }


def moved(coupling: Coupling, kept: Array) -> set[str]:
    """Return the modules that pick a channel by a number that it no longer has."""
    found = set()
    for index, tape in enumerate(coupling.tapes):
        for site in tape.sites:
            if site.kind != "index" or site.source is None or site.function == "narrow":
                continue
            for axis, entry in enumerate(_known_axes(site)):
                mask = coupling.kept_along(index, site.source, axis, kept) if isinstance(entry, int) else None
                if mask is not None and not mask[: entry % len(mask)].all():
                    found.add(site.module)
    return found


def _fix(coupling: Coupling, tape: int, site: Site, kept: Array) -> SizeFix | None:
    values = _RULES[site.kind](coupling, tape, site, kept)
    if values is None:
        return None
    return SizeFix(at=site.at, kind=site.kind, values=tuple(sorted(values.items())))  # type: ignore[arg-type]


def _shape(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    assert site.source is not None
    return coupling.counts(tape, site.source, kept) or None


def _view(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    if not site.outputs or any(isinstance(argument, str | torch.dtype) for argument in site.arguments):
        return None
    return coupling.counts(tape, site.outputs[0], kept) or None


def _split(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    shapes = [coupling.shape(tape, output, kept) for output in site.outputs]
    changed = {
        axis
        for output, shape in zip(site.outputs, shapes, strict=True)
        for axis, (old, new) in enumerate(zip(output.shape, shape, strict=True))
        if old != new
    }
    dim: Any = site.keywords.get("dim", site.arguments[1] if len(site.arguments) > 1 else 0)
    dim %= len(site.outputs[0].shape)
    return {dim: tuple(shape[dim] for shape in shapes)} if dim in changed else None


def _index(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    assert site.source is not None
    if site.function == "narrow":
        given = dict(zip(("dim", "start", "length"), site.arguments, strict=False)) | site.keywords
        dim, start = given["dim"] % len(site.source.shape), given["start"]
        places = _places(coupling, tape, site.source, dim, range(start, start + given["length"]), kept)
        return None if places is None else {dim: places}
    values: dict[int, tuple[int, ...]] = {}
    for axis, entry in enumerate(_axes(site)):
        if not isinstance(entry, int | slice) or entry == slice(None):
            continue
        size = site.source.shape[axis]
        taken = range(*entry.indices(size)) if isinstance(entry, slice) else [entry % size]
        places = _places(coupling, tape, site.source, axis, taken, kept)
        if places is not None:
            if isinstance(entry, int) and not places:
                raise Contradiction
            values[axis] = places
    return values or None


def _known_axes(site: Site) -> list[Any]:
    try:
        return _axes(site)
    except Contradiction:
        return []


def _axes(site: Site) -> list[Any]:
    """Return what an index says of each axis of its source: a number, a slice, or a tensor's Ref."""
    assert site.source is not None
    index = site.arguments[0] if site.arguments else None
    entries = full_index(tuple(index) if isinstance(index, list) else index, len(site.source.shape))
    tensors = [entry for entry in entries if isinstance(entry, Ref)]
    if any(len(tensor.shape) > 1 for tensor in tensors):
        gone = len(tensors) + sum(isinstance(entry, int) for entry in entries) - entries.count(None)
        numbered = len(site.source.shape) - gone + max(len(tensor.shape) for tensor in tensors)
        if not site.outputs or len(site.outputs[0].shape) != numbered:
            raise Contradiction  # a mask, which stands for several axes
    return [entry for entry in entries if entry is not None]


def _places(
    coupling: Coupling, tape: int, ref: Ref, axis: int, taken: Sequence[int] | range, kept: Array
) -> tuple[int, ...] | None:
    """Return where the ``taken`` indices that stay are among all that stay; None if all of the axis stays."""
    mask = coupling.kept_along(tape, ref, axis, kept)
    if mask is None or mask.all():
        return None
    new = np.cumsum(mask) - 1
    return tuple(int(new[i]) for i in taken if mask[i])


def _factory(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    if not site.outputs:
        return None
    values: dict[int, tuple[int, ...]] = {}
    for axis in range(len(site.outputs[0].shape)):
        mask = coupling.kept_along(tape, site.outputs[0], axis, kept)
        if mask is not None and not mask.all():
            values[axis] = tuple(np.flatnonzero(mask).tolist())
    return values or None


def _norm(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    assert site.source is not None
    return {} if coupling.shape(tape, site.source, kept) != site.source.shape else None


def _groups(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    position = 0 if site.function == "group_norm" else 5
    given = site.keywords.get("num_groups" if position == 0 else "groups", 1)
    groups = site.arguments[position] if len(site.arguments) > position else given
    output = site.outputs[0]
    axis = len(output.shape) - {"conv1d": 2, "conv2d": 3, "conv3d": 4}.get(site.function, len(output.shape) - 1)
    old, new = output.shape[axis], coupling.shape(tape, output, kept)[axis]
    return {0: (groups * new // old,)} if groups > 1 and old != new else None


def _pad(coupling: Coupling, tape: int, site: Site, kept: Array) -> Values | None:
    pads = site.arguments[0] if site.arguments else site.keywords["pad"]
    output = site.outputs[0]
    values: dict[int, tuple[int, ...]] = {}
    for i in range(0, len(pads) // 2):
        axis = len(output.shape) - 1 - i
        mask = coupling.kept_along(tape, output, axis, kept)
        if mask is not None and not mask.all():
            left, right = pads[2 * i], pads[2 * i + 1]
            values[axis] = (int(mask[:left].sum()), int(mask[len(mask) - right :].sum()))
    return values or None


_RULES: dict[str, Callable[[Coupling, int, Site, Array], Values | None]] = {
    "shape": _shape,
    "like": lambda coupling, tape, site, kept: None,
    "view": _view,
    "split": _split,
    "index": _index,
    "factory": _factory,
    "norm": _norm,
    "groups": _groups,
    "pad": _pad,
}
