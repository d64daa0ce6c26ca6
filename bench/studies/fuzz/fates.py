"""What must become of each construct: which ones shrink, and which ones may be refused as things are.

A construct is judged over all networks that hold it: if it must shrink and never does, that is a failure, although
every single network passes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

Fate = Literal["shrunk", "whole", "refused", "failed"]
ENOUGH = 3  # networks with a construct from which on it is judged
MAY_BE_REFUSED: Mapping[str, str] = {
    # What stays whole as things are, by name or, if it depends on how it is written, by label: to be struck out here
    # once it shrinks, which a run tells. What fails is not in here: it is no refusal.
    "GroupedQueries": "one key is repeated for all heads, as often as the code says",
    "InPlace(standardised)": "a statistic over the channels is written in place",
    "LowRankKernel": "of a kernel that is a product, what reads the channels is not seen",
    "Slices(flip)": "the channels are turned round",
    "Slices(permutation)": "the channels are taken by number",
    "Slices(roll)": "the channels are moved by a fixed number of places",
    "set": "a set has no order to compare its outputs in",
}


def outcomes(
    net: nn.Module, labels: Sequence[tuple[str, str]], done: Any, refused: str | None
) -> list[tuple[str, Fate]]:
    """Return what became of each part of a network: its own channels shrank, stayed whole, were refused, or it failed.

    Of an output's form or a whole network it counts whether anything went.
    """
    if done is None:
        return [(label, "refused" if refused is not None else "failed") for label, _ in labels]
    return [(label, "shrunk" if _shrank(net, place, done.plan) else "whole") for label, place in labels]


def _shrank(net: nn.Module, place: str, plan: Any) -> bool:
    """Return whether the layer that a part is about writes fewer channels, or any layer of it if none is."""
    if not place or place.startswith("heads."):
        return bool(plan.layers or plan.tensors)
    block = net.get_submodule(place)
    subject = getattr(block, "subject", "first" if hasattr(block, "first") else "")
    start = f"{place}.{subject}" if subject else place
    written = [layer.module for layer in plan.layers if layer.outputs is not None]
    written += [cut.tensor for cut in plan.tensors if cut.axis == 0]
    return any(name == start or name.startswith(f"{start}.") for name in written)


def by_construct(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return for every construct how often it was drawn, and how often which fate it had."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for label, fate in row.get("constructs", ()):
            counts.setdefault(label, Counter())[fate] += 1
    return {label: {"drawn": counts[label].total(), **counts[label]} for label in sorted(counts)}


def never_shrunk(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the constructs that must shrink and never did, in enough networks that did not fail otherwise."""
    return [
        label
        for label, of in counts.items()
        if not of.get("shrunk") and of["drawn"] - of.get("failed", 0) >= ENOUGH and not may_be_refused(label)
    ]


def may_be_refused(label: str) -> bool:
    """Return whether the table excuses a construct, by its whole label or by its name."""
    return label in MAY_BE_REFUSED or label.partition("(")[0] in MAY_BE_REFUSED


def excused_for_nothing(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the entries of the table that shrink in most networks, however they are written."""
    found = []
    for name in MAY_BE_REFUSED:
        of = [count for label, count in counts.items() if name in (label, label.partition("(")[0])]
        drawn, shrunk = (sum(count.get(key, 0) for count in of) for key in ("drawn", "shrunk"))
        if drawn >= ENOUGH and 2 * shrunk > drawn:
            found.append(name)
    return found


def reason_in(message: str) -> str:
    """Return a refusal without the names and numbers of one network, so that equal reasons count together."""
    message = message.partition("they are fixed because: ")[2] or message
    message = re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", "", message)
    message = re.sub(r"'[^']*'", "'...'", message)
    return re.sub(r"\d+", "N", message)[:160].strip()
