"""An operation at a kept place gives what it gives on the kept channels alone, and zeros where it keeps the axis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.network.sites import Passes
from slimtask.compress.network.trace import record
from slimtask.compress.proof.kept import KeptPlace, KeptPlaces, NotComparable, kept_call

KEEP = torch.tensor([True, False, True, True, False, True])
INDEX = KEEP.nonzero().flatten()
W, B = torch.arange(1.0, 7), torch.arange(6.0)
# fmt: off
CASES: dict[str, tuple[str, int, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "mean": ("mean", 1, lambda x: x.mean(1), lambda x: x.mean(1)),
    "mean of all": ("mean", 1, lambda x: x.mean(), lambda x: x.mean()),
    "var": ("var", 1, lambda x: x.var(1), lambda x: x.var(1)),
    "amax": ("amax", 1, lambda x: x.amax(1), lambda x: x.amax(1)),
    "max": ("max", 1, lambda x: x.max(1).values, lambda x: x.max(1).values),
    "norm": ("linalg_vector_norm", 1, lambda x: x.norm(dim=1), lambda x: x.norm(dim=1)),
    "logsumexp": ("logsumexp", 1, lambda x: x.logsumexp(1), lambda x: x.logsumexp(1)),
    "softmax": ("_softmax", 1, lambda x: x.softmax(1)[:, INDEX], lambda x: x.softmax(1)),
    "cumsum": ("cumsum", 1, lambda x: x.cumsum(1)[:, INDEX], lambda x: x.cumsum(1)),
    "layer norm": (
        "native_layer_norm", 2, lambda x: F.layer_norm(x.mT, (6,), W, B).mT[:, INDEX],
        lambda x: F.layer_norm(x.mT, (4,), W[INDEX], B[INDEX]).mT,
    ),
    "group norm": (
        "native_group_norm", 1, lambda x: F.group_norm(x, 1, W, B)[:, INDEX],
        lambda x: F.group_norm(x, 1, W[INDEX], B[INDEX]),
    ),
    "group norm of two": (
        "native_group_norm", 1, lambda x: F.group_norm(x, 2)[:, INDEX], lambda x: F.group_norm(x, 2),
    ),
}
# fmt: on


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.weight)


def run(net: nn.Module, x: Tensor, name: str, *axes: int, turn: int = 0) -> Tensor:
    """Return what the net gives if its call of that name and turn takes operand n only where KEEP along axes[n]."""
    places = [
        KeptPlace(module="", turn=turn, name=name, operand=n, axis=axis, keep=KEEP) for n, axis in enumerate(axes)
    ]
    assert any((op.module, op.name, op.turn) == ("", name, 0) for op in record(net, x, compute=True).operations)
    passes = Passes(net)
    with torch.no_grad(), passes.followed(), KeptPlaces(places, passes):
        out: Tensor = net(x)
    return out


@pytest.mark.parametrize("name", CASES)
def test_over_the_kept_channels_only(name: str) -> None:
    op, axis, function, expected = CASES[name]
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(Calls(function), x, op, axis), expected(x[:, INDEX]))


def test_a_product_of_two_activations() -> None:
    x = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    got = run(Calls(lambda x: x.mT @ (x + 1)), x, "bmm", 2, 1)
    torch.testing.assert_close(got, x[:, INDEX].mT @ (x[:, INDEX] + 1))


def test_calls_of_one_name_are_told_apart_by_their_turn() -> None:
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    net = Calls(lambda x: torch.stack([x.mean(1), (2 * x).mean(1)]))
    whole, kept = x.mean(1), x[:, INDEX].mean(1)
    torch.testing.assert_close(run(net, x, "mean", 1), torch.stack([kept, 2 * whole]))
    torch.testing.assert_close(run(net, x, "mean", 1, turn=1), torch.stack([whole, 2 * kept]))


def test_another_operand_or_size_is_not_comparable() -> None:
    net, x = Calls(lambda x: x.mean(1)), torch.zeros(2, 6, 5)
    with pytest.raises(NotComparable, match="not 6 channels along axis 2"):
        run(net, x, "mean", 2)
    place = KeptPlace(module="", turn=0, name="sum", operand=0, axis=1, keep=KEEP)
    with pytest.raises(NotComparable, match="is 'mean', not 'sum'"):
        kept_call(torch.ops.aten.mean.dim, (x, [1]), {}, [place])
