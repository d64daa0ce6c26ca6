"""One network analysed: its tapes, the coupling that they imply, and the channel groups that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.graph.coupling import couple
from slimtask.compress.graph.further import further_passes, training_pass
from slimtask.compress.graph.groups import Group, groups_of
from slimtask.compress.graph.twins import become_twins_, has_twin
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.network.tape import Tape
from slimtask.compress.network.trace import record, shared_copy, unused


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


def find_groups(model: nn.Module, example: Inputs, also: Sequence[Inputs] = ()) -> tuple[Group, ...]:
    """Return every coupled channel group of ``model``, traced with one forward pass on ``example``.

    ``example`` is a valid input (one tensor, a tuple or a dictionary), e.g. [1, 3, height, width]; ``also`` are further
    ones, which reach parts that it does not. Nothing is computed, and ``model`` is not run here. Attention that has a
    sliceable twin (``twins.py``) is read as its twin. Raises InputError if the network does not run on an input or has
    no convolution or linear layer.

    Examples:
        >>> from slimtask.compress import find_groups
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> [(group.name, group.channels, group.refused) for group in find_groups(net, zeros(1, 3, 8, 8))]
        [('0', 16, None), ('2', 4, "they are channels of the network's output 'output'")]
    """
    return analyse(model, example, also).groups
