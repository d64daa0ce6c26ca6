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
    "AssertedWidth": "the width stands in the code",
    "ChannelShuffled": "channel_shuffle mixes the channels",
    "Chance": "two networks of different widths never draw the same numbers",
    "Deformed": "deform_conv2d mixes the channels",
    "DotOfTwo": "nothing is seen to read the channels",
    "FixedView": "the width stands in the code",
    "FourierFilter": "fft_r2c mixes the channels",
    "GateFirst(map first)": "nothing is seen to read the channels",
    "Gated(glu)": "glu mixes the channels",
    "Gated(slices)": "the channels are sliced at fixed places",
    "GroupNormed": "a normalisation in groups runs over the channels",
    "GroupedQueries": "the number of heads is fixed, or they are shuffled",
    "HalvesSliced": "the channels are sliced at fixed places",
    "HandAttention(attributes)": "the number of heads stands in the code",
    "HandAttention(shapes)": "the number of heads stands in the code",
    "HardCoded": "the width stands in the code, or a statistic runs over the channels",
    "InPlace": "a learned scalar stands first, so that nothing is seen to read the channels",
    "OwnConv": "the layers are not known",
    "LowRankKernel": "of a kernel that is a product, what reads the channels is not seen",
    "PermutedByEinsum(project)": "nothing is seen to read the channels",
    "PixelShuffled": "pixel_shuffle mixes the channels",
    "ProductSum(sum)": "a sum runs over the channels",
    "Recurrent": "the width stands in the module",
    "ResponseNormed": "a mean runs over the channels",
    "RmsNormed": "a mean runs over the channels",
    "Rotary": "the channels are sliced at fixed places",
    "RunningMaximum": "a maximum runs over the channels",
    "ScalarFirst": "nothing is seen to read the channels",
    "Shuffle": "the channels are shuffled",
    "SineTable": "the channels meet a fixed number of others",
    "SingleHead": "nothing is seen to read the channels, or the width stands in the code",
    "Slices": "the channels are sliced, split or flipped at fixed places",
    "SlicesWritten": "the channels meet a fixed number of others",
    "SpatialGate": "a mean runs over the channels",
    "SplitBySizes": "the channels are split at fixed places",
    "SplitInHeads": "the channels are split at fixed places",
    "Standardised": "nothing is seen to read the channels",
    "TopPixels": "gather mixes the channels",
    "Unfolded": "im2col mixes the channels",
    "UnitLength": "a norm runs over the channels",
    "WeightNormed": "the layers are not known",
    "WeightedTasks": "a softmax runs over the channels",
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
