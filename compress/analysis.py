"""One network analysed: its tapes, the coupling that they imply, and the channel groups that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from slimtask.compress.axes import Array
from slimtask.compress.coupler import Coupling
from slimtask.compress.coupling import couple
from slimtask.compress.cuts import axis_of
from slimtask.compress.further import further_passes, training_pass
from slimtask.compress.groups import Group, groups_of
from slimtask.compress.inputs import Inputs
from slimtask.compress.surgery import Cut
from slimtask.compress.tape import Tape
from slimtask.compress.trace import record, shared_copy, unused
from slimtask.compress.twins import become_twins_, has_twin


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is known of a network: ``model`` (a copy that shares its tensors, sliceable twins in place), tapes, groups.

    ``tapes`` are those of the example, of every further input, and of passes that reach parameters which they do not,
    the last of them perhaps in training; ``inputs`` is what each pass was given.
    """

    model: nn.Module
    tapes: tuple[Tape, ...]
    inputs: tuple[Inputs, ...]
    coupling: Coupling
    groups: tuple[Group, ...]

    @property
    def tape(self) -> Tape:
        """Return the tape of the example."""
        return self.tapes[0]

    @property
    def evaluated(self) -> tuple[Tape, ...]:
        """Return the tapes of evaluation."""
        return tuple(tape for tape in self.tapes if not tape.training)

    def idle(self) -> list[str]:
        """Return the parameters that evaluation never reads on any of the inputs."""
        idle = [set(unused(tape, self.model)) for tape in self.evaluated]
        return sorted(set.intersection(*idle))

    def kept(self, cuts: Sequence[Cut]) -> Array:
        """Return which atoms of the coupling's labels stay after ``cuts``, boolean [atoms]."""
        gone = np.zeros(int(self.coupling.classes.max()) + 1, bool)
        first = {(axis.tensor, axis.axis): axis.first for axis in self.coupling.labels.axes}
        for cut in cuts:
            leaves = (~cut.keep).numpy()
            for member in cut.group.members if leaves.any() else ():
                start = first.get(axis_of(member, self.model))
                if start is not None:
                    local = member.local[torch.from_numpy(leaves[member.channel.numpy()])].numpy()
                    gone[self.coupling.classes[start + local]] = True
        return ~gone[self.coupling.classes]


def analyse(model: nn.Module, example: Inputs, also: Sequence[Inputs] = ()) -> Analysis:
    """Return the Analysis of ``model`` on ``example`` and the further inputs ``also``; nothing of the caller's is run.

    Parts that these inputs do not reach (a head for training, one behind a switch, a branch that looks at values) are
    looked for, see ``further.py``, so that they are cut along. Raises InputError if the network does not run on an
    input, or has no layer to cut.
    """
    if any(has_twin(module) for module in model.modules()):
        model = shared_copy(model)
        become_twins_(model)
    passes = [(record(model, inputs), inputs) for inputs in (example, *also)]
    passes += further_passes(model, [tape for tape, _ in passes], example)
    passes += training_pass(model, [tape for tape, _ in passes], example)
    tapes, inputs = tuple(tape for tape, _ in passes), tuple(given for _, given in passes)
    coupling = couple(*tapes)
    return Analysis(model=model, tapes=tapes, inputs=inputs, coupling=coupling, groups=groups_of(model, coupling))
