"""Couplings against plain tensors that carry the numbers of channels through the same code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slimtask.compress.graph.coupler import Coupling
from slimtask.compress.graph.coupling import couple
from slimtask.compress.network.trace import record

CHANNELS = 12


@dataclass(frozen=True)
class Step:
    """A change of layout of [N, C, places] with its arguments."""

    name: str
    number: int

    def __call__(self, x: Tensor) -> Tensor:  # noqa: PLR0911
        n, c, places = x.shape
        unit = next(d for d in (2 + self.number % 3, 3, 2, 1) if c % d == 0)
        if c < 5 or c // unit < 2:  # pieces of one channel have no labels
            return x
        cut = 2 + self.number % (c - 3)
        if self.name == "shuffle":
            return x.view(n, unit, c // unit, places).transpose(1, 2).reshape(n, c, places)
        if self.name == "back and forth":
            return x.unflatten(1, (unit, -1)).permute(0, 3, 2, 1).flatten(2).permute(0, 2, 1)
        if self.name == "split":
            p, q = x.split([cut, c - cut], 1)
            return torch.cat([q, p], 1)
        if self.name == "slice":
            return x[:, self.number % (c - 1) :]
        if self.name == "step":
            return torch.cat([x[:, ::2], x[:, 1::2]], 1)
        if self.name == "twice":
            return torch.cat([x, x[:, :cut]], 1)
        if self.name == "narrow":
            return x.narrow(1, 0, cut)
        if self.name == "chunk":
            return torch.cat(x.chunk(unit, 1)[::-1], 1)
        if self.name == "repeat":
            return x.repeat_interleave(2, 1)
        if self.name == "stack":
            return torch.stack([x, x], 2).flatten(1, 2)
        return x.movedim(1, -1).reshape(n * places, c).view(n, places, c).mT


NAMES = (
    "shuffle",
    "back and forth",
    "split",
    "slice",
    "step",
    "twice",
    "narrow",
    "chunk",
    "repeat",
    "stack",
    "flatten",
)


class Chain(nn.Module):
    """A layer, layout after layout, a layer."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.a = nn.Conv1d(2, CHANNELS, 1)
        self.b = nn.Conv1d(self.lay(torch.zeros(1, CHANNELS, 3)).shape[1], 2, 1)

    def lay(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.lay(self.a(x)))
        return made


def channels_of(coupling: Coupling, tensor: str, axis: int) -> np.ndarray:
    (found,) = (a for a in coupling.labels.axes if (a.tensor, a.axis) == (tensor, axis))
    return coupling.classes[found.atoms]


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.builds(Step, st.sampled_from(NAMES), st.integers(0, 11)), min_size=1, max_size=4), st.data())
def test_a_chain_of_layouts_carries_every_channel_to_where_a_plain_tensor_does(
    steps: list[Step], data: st.DataObject
) -> None:
    chain = Chain(steps)
    numbers = chain.lay(torch.arange(CHANNELS)[None, :, None].expand(2, -1, 3).float())[0, :, 0].long().numpy()
    tape = record(chain, torch.zeros(2, 2, 3), compute=False)
    coupling = couple(tape)
    written = channels_of(coupling, "a.weight", 0)
    if len(numbers) > 1:  # an axis of one has no label
        assert (channels_of(coupling, "b.weight", 1) == written[numbers]).all()
    gone = data.draw(st.sets(st.sampled_from(sorted(set(written.tolist())))))
    kept = ~np.isin(coupling.classes, list(gone))
    stays = ~np.isin(written, list(gone))
    product = next(op for op in tape.operations if op.name == "convolution" and op.args[0].shape[1] == len(numbers))
    mask = coupling.kept_along(0, product.args[0], 1, kept)
    if mask is None:
        assert stays[numbers].all() or len(numbers) == 1
    else:
        assert (mask == stays[numbers]).all()
        assert coupling.shape(0, product.args[0], kept)[1] == int(stays[numbers].sum())


def ties(network: nn.Module, x: Tensor, first: tuple[str, int], second: tuple[str, int]) -> bool:
    """Return whether two axes of parameters are the same channels, one by one."""
    coupling = couple(record(network, x))
    one, other = channels_of(coupling, *first), channels_of(coupling, *second)
    return one.shape == other.shape and bool((one == other).all()) and len(set(one.tolist())) == len(one)


@pytest.mark.parametrize(
    ("first", "second", "tied"),
    [
        (("0.weight", 0), ("1.weight", 0), True),
        (("0.weight", 0), ("3.weight", 1), True),
        (("1.running_var", 0), ("0.bias", 0), True),
        (("0.weight", 1), ("0.weight", 0), False),
        (("3.weight", 0), ("0.weight", 0), False),
    ],
)
def test_a_layer_its_norm_and_its_reader_are_tied_channel_by_channel(
    first: tuple[str, int], second: tuple[str, int], tied: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3))
    assert ties(network, torch.zeros(1, 3, 8, 8), first, second) is tied


def test_tapes_of_one_network_are_tied_by_its_parameters() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.c(self.a(x) if x.ndim == 2 else self.b(x))
            return made

    network = Two()
    one, other = record(network, torch.zeros(4, 3)), record(network, torch.zeros(4, 2, 3))
    together = couple(one, other)
    assert (channels_of(together, "a.weight", 0) == channels_of(together, "b.weight", 0)).all()
    assert [len(values) > 0 for values in together.values] == [True, True]
    assert not any(axis.tensor == "b.weight" for axis in couple(one).labels.axes)


@pytest.mark.parametrize(
    ("code", "operand_axis"),
    [
        (lambda y: y.mean(1, keepdim=True), ("mean", 1)),
        (lambda y: y.softmax(1), ("_softmax", 1)),
        (lambda y: nn.functional.layer_norm(y.mT, (6,)).mT, ("native_layer_norm", 2)),
    ],
    ids=["mean", "softmax", "layer norm"],
)
def test_what_runs_over_channels_is_noted_with_its_operand(
    code: Callable[[Tensor], Tensor], operand_axis: tuple[str, int]
) -> None:
    class Over(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv1d(2, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return code(self.a(x)).sum((1, 2))

    coupling = couple(record(Over(), torch.zeros(2, 2, 5)))
    read = {(r.operation.name, r.axis): r.labels for r in coupling.readings}
    assert operand_axis in read
    assert (coupling.classes[read[operand_axis]] == channels_of(coupling, "a.weight", 0)).all()


def test_views_of_what_is_labelled_in_part_come_to_an_end() -> None:
    """Channels appended to some of a fixed number and viewed as two axes: what ties no further is left."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([self.a(x), x], 1)
            return self.b(y.view(y.shape[0], 2, 4, *y.shape[2:]).transpose(1, 2).reshape(y.shape))

    coupling = couple(record(Part(), torch.zeros(1, 3, 4, 4)))
    pinned = coupling.labels.reasons(coupling.classes)
    assert set(channels_of(coupling, "a.weight", 0).tolist()) & set(pinned)
