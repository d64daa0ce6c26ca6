"""One call from an ONNX graph to a smaller one that computes the same: what is dead goes, what stays is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from slimtask.compress.onnx.cut import cut
from slimtask.compress.onnx.dead import Decision, decide, groups_of
from slimtask.compress.onnx.explain import OnnxCut, cuts_of, nothing, refusals
from slimtask.compress.onnx.files import read_onnx, uses_external_data, write_onnx
from slimtask.compress.onnx.flow import Classes, Flow
from slimtask.compress.onnx.network import Network, assemble
from slimtask.compress.onnx.normalise import normalise
from slimtask.compress.onnx.proof import certify, probes
from slimtask.compress.onnx.walk import walk
from slimtask.compress.proof.certify import TOLERANCE, Certificate, Refusal
from slimtask.errors import CheckFailed, InputError


@dataclass(frozen=True, kw_only=True)
class OnnxCompressed:
    """A smaller ONNX graph, what it lost, what could not go and why, and the proof that it computes the same."""

    model: onnx.ModelProto
    removed: tuple[OnnxCut, ...]
    refused: tuple[Refusal, ...]
    certificate: Certificate
    files: tuple[Path, ...] = ()


def compress_onnx(
    model: onnx.ModelProto | Path | str,
    out: Path | str | None = None,
    *,
    align: int = 1,
    tolerance: float | int = TOLERANCE,
) -> OnnxCompressed:
    """Return ``model`` (a graph or the path of one) without the channels that its weights have made dead.

    A channel goes if nothing reads it or if it is one constant, whatever the input; the constants move into biases or,
    behind zero padding, into one such channel that stays. Each group keeps a multiple of ``align`` channels. ONNX
    Runtime runs both graphs on seeded inputs; a group that changes an output by more than ``tolerance``, relative to
    its largest value, is put back. ``out`` is written last, with its weights in ``<out>.data`` if those of ``model``
    lie beside it or it exceeds 2 GB. Initialisers that are also inputs of the graph are no inputs of the result.

    Raises InputError for a file that is not a float32 ONNX graph and if nothing can go, CheckFailed if nothing that
    could go is exact.

    Examples:
        >>> import torch
        >>> from slimtask.bench import OnnxRuntimeMeter
        >>> from slimtask.compress import compress_onnx
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)).eval()
        >>> net[0].weight.data[5:] = 0
        >>> with OnnxRuntimeMeter().artifacts({"net": net}, torch.zeros(1, 3, 8, 8)) as files:
        ...     done = compress_onnx(files["net"])
        >>> [(cut.before, cut.after) for cut in done.removed], done.certificate.holds
        ([(8, 5)], True)
    """
    if align < 1:
        raise InputError(f"align is {align}; give 1 or more.")
    flow = walk(normalise(*read_onnx(model)))
    classes = flow.classes
    search = _Search(flow=flow, classes=classes, align=align, tolerance=tolerance)
    first = decide(flow, classes, np.ones(len(classes), dtype=bool), align)
    if not first.removed.any():
        raise InputError(nothing(flow, classes, model, align))
    search.probes = probes(flow.network)
    search.accept(groups_of(classes, first.removed))
    if search.best is None:
        raise CheckFailed(f"the removal is not exact ({search.put_back[0].reason}); nothing was written.")
    decision, smaller = search.best
    refused = (*search.put_back, *refusals(flow, classes, decision.removed))
    certificate = certify(smaller, search.probes, tolerance, refused)
    proto, _ = assemble(smaller)
    files = () if out is None else write_onnx(smaller, out, external_data=uses_external_data(model))
    return OnnxCompressed(
        model=proto, removed=cuts_of(flow, classes, decision), refused=refused, certificate=certificate, files=files
    )


@dataclass(kw_only=True)
class _Search:
    """Finds the groups whose removal is exact: all at once or, if that fails, half by half."""

    flow: Flow
    classes: Classes
    align: int
    tolerance: float | int
    probes: Any = ()
    accepted: list[int] = field(default_factory=list)
    best: tuple[Decision, Network] | None = None
    put_back: list[Refusal] = field(default_factory=list)

    def accept(self, groups: Sequence[int]) -> None:
        """Add to the accepted groups those among ``groups`` whose removal is exact, note the others as put back."""
        if not groups:
            return
        wrong = self._try([*self.accepted, *groups])
        if wrong is None:
            self.accepted += groups
        elif len(groups) > 1:
            self.accept(groups[: len(groups) // 2])
            self.accept(groups[len(groups) // 2 :])
        else:
            channels = int((self.classes.group == groups[0]).sum())
            self.put_back.append(Refusal(group=self.classes.groups[groups[0]][0], channels=channels, reason=wrong))

    def _try(self, groups: Sequence[int]) -> str | None:
        """Remove what is dead in ``groups``; return why that is not exact, or keep the result as the best."""
        allowed = np.isin(self.classes.group, list(groups))
        decision = decide(self.flow, self.classes, allowed, self.align)
        try:
            smaller = cut(self.flow, self.classes, decision)
            certificate = certify(smaller, self.probes, self.tolerance, ())
        except (RuntimeError, ValueError, IndexError) as error:  # a coupling that the walk did not see
            return f"the graph does not run without them: {error}"
        if not certificate:
            return f"it changes an output by {certificate.max_rel_error:.1e}"
        self.best = decision, smaller
        return None
