"""What went and what did not, in words: the cuts of every group, what holds the others, what makes dead ones vary."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx

from slimtask.compress.onnx.dead import ClassMask, Decision, blocked, decide, gone, groups_of
from slimtask.compress.onnx.flow import Classes, Flow
from slimtask.compress.onnx.network import described
from slimtask.compress.proof.certify import Refusal
from slimtask.tasks import Frozen


class OnnxCut(Frozen):
    """What a group of coupled channels lost: the nodes that make it, its size before and after, why the rest went."""

    name: str
    producers: tuple[str, ...]
    before: int
    after: int
    removed: dict[str, int]
    note: str = ""


def cuts_of(flow: Flow, classes: Classes, decision: Decision) -> tuple[OnnxCut, ...]:
    """Return what each group lost, with the reasons counted in channels."""
    removed = decision.removed
    needed = np.zeros(len(classes), dtype=bool)
    emits = np.zeros(len(classes), dtype=bool)
    for reader in flow.readers:
        read = reader.reads[~removed[classes.of[reader.out]]].any(axis=0)
        needed |= classes.any_of(reader.seen.labels, read)
        emits |= classes.any_of(reader.seen.labels, gone(reader, classes, removed)[1])
    carriers = carrying_classes(flow, classes, decision)
    kinds = {
        "ignored by every reader": ~needed,
        "zero": needed & ~emits,
        "constant, absorbed by the readers": emits,
    }
    cuts = []
    for group in groups_of(classes, removed):
        members = classes.group == group
        carrying = int((members & carriers).sum())
        counts = Counter({why: int((members & removed & mask).sum()) for why, mask in kinds.items()})
        cuts.append(
            OnnxCut(
                name=classes.groups[group][0],
                producers=classes.groups[group],
                before=int(members.sum()),
                after=int((members & ~removed).sum()),
                removed={why: count for why, count in counts.items() if count},
                note=f"kept to carry the constants of the removed ones: {carrying}" if carrying else "",
            )
        )
    return tuple(cuts)


def refusals(flow: Flow, classes: Classes, removed: ClassMask) -> tuple[Refusal, ...]:
    """Return per group what holds its channels, and by which node dead ones come to vary and have to stay."""
    counts = Counter(
        (int(group), classes.reasons[why])
        for group, why in zip(classes.group.tolist(), classes.held.tolist(), strict=True)
        if why >= 0 and group >= 0
    )
    for mask, reason in _spoilt(flow, classes, removed):
        for group in classes.group[mask].tolist():
            counts[group, reason] += 1
    return tuple(
        Refusal(group=classes.groups[group][0], channels=count, reason=reason)
        for (group, reason), count in sorted(counts.items())
    )


def carrying_classes(flow: Flow, classes: Classes, decision: Decision) -> ClassMask:
    """Return the classes that stay and carry the constants of others."""
    mask = np.zeros(len(classes), dtype=bool)
    for reader, carrier in zip(flow.readers, decision.carriers, strict=True):
        if carrier is not None:
            mask[classes.of[reader.seen.labels[carrier]]] = True
    return mask


def nothing(flow: Flow, classes: Classes, model: Any, align: int = 1) -> str:
    """Return the sentence that says why nothing goes: the alignment, or which channels are held and by what."""
    what = "the ONNX graph" if isinstance(model, onnx.ModelProto) else f"'{model}'"
    dead = int(decide(flow, classes, np.ones(len(classes), dtype=bool)).removed.sum())
    if dead:
        return (
            f"nothing in {what} can be removed in blocks of {align} channels: {dead} of its {classes.channels} "
            "channels are dead, but no group has a whole block of them; align to 1 (--align 1) to remove them all the "
            "same."
        )
    held: Counter[str] = Counter()
    for refusal in refusals(flow, classes, np.zeros(len(classes), dtype=bool)):
        held[refusal.reason] += refusal.channels
    why = "; ".join(f"{count} because {reason}" for reason, count in held.most_common(5)) or "none"
    free = int((classes.held < 0).sum())
    return (
        f"nothing in {what} can be removed: {free} of its {classes.channels} channels are free to go but none of "
        f"them is dead; held back: {why}; zero whole filters first (train with a structured sparsity, or prune)."
    )


def _spoilt(flow: Flow, classes: Classes, removed: ClassMask) -> list[tuple[ClassMask, str]]:
    """Return the free classes that a maker leaves constant and a reader sees vary, by the first node that does that."""
    constant = np.zeros(len(classes), dtype=bool)
    for value in flow.makers:
        constant |= classes.any_of(value.labels, ~np.isnan(value.constant))
    left = constant & ~removed & (classes.held < 0) & blocked(flow, classes, removed)
    found = []
    maps = {reader.node for reader in flow.readers}  # what these make are other channels
    for index, node in enumerate(flow.network.nodes if left.any() else ()):
        if index in maps:
            continue
        known = np.zeros(len(classes), dtype=bool)
        varies = np.zeros(len(classes), dtype=bool)
        for value in (flow.values[name] for name in node.input if name in flow.values):
            known |= classes.any_of(value.labels, ~np.isnan(value.constant))
        for value in (flow.values[name] for name in node.output if name in flow.values):
            varies |= classes.any_of(value.labels, np.isnan(value.constant))
        here = left & known & varies
        if here.any():
            found.append((here, f"{described(node)} makes varying ones of dead ones"))
            left &= ~here
    return found
