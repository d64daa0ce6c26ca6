"""Which cuts a network's code survives, and which of its modules are told sizes for that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import analyse
from slimtask.compress.removal.fitting import fit, sizes_of
from slimtask.compress.removal.surgery import Cut, make_cut
from tests.compress.halves import conv

X = torch.zeros(1, 3, 8, 8)


class Block(nn.Module):
    """Says how many channels it has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.a, self.b = width, conv(3, width), conv(width // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images."""
        y = self.a(x)
        made: Tensor = self.b(y.view(len(y), self.width // 2, 2, 8, 8).sum(2))
        return made


class Free(Block):
    """Finds out how many channels it has."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images."""
        made: Tensor = self.b(self.a(x).unflatten(1, (-1, 2)).sum(2))
        return made


class Deaf(Block):
    """Looks at its own weight, which no answer reaches."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images."""
        y = self.a(x)
        if self.a.out_channels != self.width:
            raise ValueError(f"{self.width} channels, please")
        made: Tensor = self.b(y.unflatten(1, (-1, 2)).sum(2))
        return made


def cuts_of(network: nn.Module, modules: Sequence[str]) -> tuple[list[Cut], object]:
    """Return cuts of the first unit of the groups that the named modules write, and the analysis."""
    analysis = analyse(network, X)
    made = []
    for group in analysis.groups:
        if group.name in modules:
            keep = torch.ones(group.channels, dtype=torch.bool)
            keep[0] = False
            made.append(Cut(group=group, keep=keep, reasons={"a test": 1}))
    return made, analysis


def test_a_module_that_says_its_size_is_told_with_all_others_of_its_class() -> None:
    network = nn.Sequential(Block(8), Free(8), Block(12)).eval()
    cuts, analysis = cuts_of(network, ("0.a", "1.a", "2.a"))
    fitted = fit(analysis, cuts)  # type: ignore[arg-type]
    assert len(fitted.good) == 3
    assert not fitted.lost
    assert {"0", "2"} <= {sizes.module for sizes in fitted.sizes}
    smaller, plan = make_cut(network, fitted.good, fitted.sizes)
    assert smaller(X).shape == network(X).shape
    assert {sizes.module for sizes in plan.sizes} == {sizes.module for sizes in fitted.sizes}


def test_a_module_that_finds_its_sizes_is_told_nothing() -> None:
    cuts, analysis = cuts_of(Free(8).eval(), ("a",))
    fitted = fit(analysis, cuts)  # type: ignore[arg-type]
    assert (len(fitted.good), fitted.lost, fitted.sizes) == (1, [], ())


def test_cuts_that_the_code_does_not_survive_are_taken_back_with_its_own_words() -> None:
    network = nn.Sequential(Deaf(8), Block(8)).eval()
    cuts, analysis = cuts_of(network, ("0.a", "1.a"))
    fitted = fit(analysis, cuts)  # type: ignore[arg-type]
    assert [cut.group.name for cut in fitted.good] == ["1.a"]
    assert [(cut.group.name, why) for cut, why in fitted.lost] == [
        ("0.a", "the network does not run without them: 8 channels, please")
    ]


def test_nothing_to_cut_is_nothing_to_fit() -> None:
    cuts, analysis = cuts_of(Block(8).eval(), ())
    fitted = fit(analysis, cuts)  # type: ignore[arg-type]
    assert (fitted.good, fitted.lost, fitted.sizes) == ([], [], ())


def test_fewer_cuts_need_fewer_answers() -> None:
    network = nn.Sequential(Block(8), Block(8)).eval()
    cuts, analysis = cuts_of(network, ("0.a", "1.a"))
    fitted = fit(analysis, cuts)  # type: ignore[arg-type]
    told = {sizes.module for sizes in fitted.sizes}
    assert {sizes.module for sizes in sizes_of(analysis, fitted.good[:1], told)} == {"0"}  # type: ignore[arg-type]
    assert sizes_of(analysis, fitted.good, {"1"})[0].module == "1"  # type: ignore[arg-type]
    assert sizes_of(analysis, [], told) == ()  # type: ignore[arg-type]
