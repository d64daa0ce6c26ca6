"""Networks twice as wide as their code needs: cut by half they must be the narrow ones, to the last digit.

A construct is a function of ``k`` that returns a network of width ``k``. The wide one (2) is pruned to half the
channels of every group. What is left must have the parameters of the narrow one (1), whose own code, never told
anything, is then run with them. Where nothing runs over channels, it must also equal the wide one with zeros where its
weights read what went.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from slimtask.compress.graph.modules import slice_axis
from slimtask.compress.pruning import prune
from slimtask.compress.removal.plan import Plan
from slimtask.compress.removal.remove import Compressed
from slimtask.compress.score.budget import Budget

Run = Callable[[Any, Tensor], Any]
Make = Callable[[int], nn.Module]
OUTPUT = "they are channels of the network's output"


class Net(nn.Module):
    """Parts by name, and the code that runs them."""

    def __init__(self, run: Run, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Any:
        """Return what the code makes of the parts and the input."""
        return self.run(self, x)


def net(run: Run, /, **parts: Any) -> nn.Module:
    """Return a network of a class of its own; a tensor among its parts is a parameter."""
    return type("Own", (Net,), {})(run, parts)


class Several(nn.Module):
    """Networks side by side on one input, one output for each."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return every network's output by name."""
        return {name: network(x) for name, network in self.networks.items()}


def conv(into: int, out: int, size: int = 3, **options: Any) -> nn.Conv2d:
    """Return a convolution that keeps the size of its map."""
    return nn.Conv2d(into, out, size, padding=size // 2, **options)


def side_by_side(cases: Mapping[str, Make]) -> Make:
    """Return all constructs as one."""
    return lambda k: Several({name: make(k) for name, make in cases.items()})


def seeded(make: Make, k: int) -> nn.Module:
    """Return the network of width ``k``, no two of its channels alike, its statistics not the trivial ones."""
    torch.manual_seed(0)
    model = make(k).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            assert module.running_mean is not None
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 1.5)
    return model


def check_half(make: Make, x: Tensor, *, over_channels: bool = False, stays: Collection[str] = ()) -> Compressed:
    """Prune the wide network to half and compare it with the narrow one; return what came of it.

    ``stays`` are the reasons, besides being an output, for which channels may be refused.
    """
    wide = seeded(make, 2)
    done = prune(wide, x, budget=Budget(keep=0.5), scope="layer")
    assert done.certificate.max_rel_error <= 1e-5
    lost = {refusal.group: refusal.reason for refusal in done.certificate.refused}
    lost = {name: why for name, why in lost.items() if OUTPUT not in why and why not in stays}
    assert not lost, lost
    narrow = seeded(make, 1)
    narrow.load_state_dict(done.model.state_dict())  # raises where a shape is not that of the narrow network
    fresh = torch.cat([x, x.flip(-1), x]) if not x.is_floating_point() else torch.randn(3, *x.shape[1:]).double()
    agree(done.model.double(), narrow.double(), fresh)
    if not over_channels:
        agree(done.model, zeroed(wide, done.plan).double(), fresh)
    return done


def agree(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    """Raise unless the networks compute the same, in float64."""
    with torch.no_grad():
        assert_close(one(x), other(x), rtol=1e-9, atol=1e-9)


def zeroed(wide: nn.Module, plan: Plan) -> nn.Module:
    """Return the wide network with zeros where its layers and parameters read what ``plan`` cuts, in place."""
    modules, tensors = dict(wide.named_modules()), dict(wide.named_parameters())
    for layer in plan.layers:
        module = modules[layer.module]
        if layer.inputs is not None and hasattr(module, "weight"):
            _zero_all_but(module.weight.detach(), slice_axis(module, "in"), layer.inputs)
    for cut in plan.tensors:
        if cut.tensor in tensors and "parametrizations" not in cut.tensor:  # zeroed, those would be 0 / 0
            _zero_all_but(tensors[cut.tensor].detach(), cut.axis, cut.kept)
    return wide


def _zero_all_but(tensor: Tensor, axis: int, kept: tuple[int, ...]) -> None:
    gone = [index for index in range(tensor.shape[axis]) if index not in kept]
    tensor.index_fill_(axis, torch.tensor(gone, dtype=torch.int64), 0.0)
