"""Blocks against the parameters indexed slice by slice: nothing is lost, whatever is packed, chunked or transposed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimtask.train.sparsity import blocked
from slimtask.train.sparsity.blocked import Block, blocks_of

GROUPS = 7


def drawn(*shape: int, channels_last: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def slices(size: int) -> Tensor:
    return torch.arange(size) * 3 % (GROUPS + 1)  # the last stands for "none"


CASES = {
    "filters": (drawn(12, 5, 3, 3), 0),
    "inputs": (drawn(6, 10, 3, 3), 1),
    "channels last": (drawn(6, 10, 3, 3, channels_last=True), 1),
    "filters, channels last": (drawn(12, 5, 3, 3, channels_last=True), 0),
    "matrix columns": (drawn(30, 9), 1),
    "vector": (drawn(300), 0),
}


@pytest.fixture(params=[0, 2**13], ids=["alone", "packed"])
def _packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "PACKED_ELEMENTS", request.param)
    monkeypatch.setattr(blocked, "CHUNK_ELEMENTS", 100 if not request.param else 2**18)


def only(name: str) -> tuple[Tensor, int, Tensor, Block]:
    parameter, axis = CASES[name]
    members = slices(parameter.shape[axis])
    (block,) = blocks_of([(parameter, axis, members)], GROUPS)
    return parameter, axis, members, block


@pytest.mark.usefixtures("_packed")
@pytest.mark.parametrize("name", CASES)
def test_a_number_per_group_meets_the_slices_of_the_group(name: str) -> None:
    parameter, axis, members, block = only(name)
    (matrix,) = block.load([[parameter]])
    factors = torch.arange(1.0, GROUPS + 2)
    out = torch.empty_like(parameter)
    scaled = matrix * block.spread(factors)
    (target,) = block.load([[out]])
    target.copy_(scaled)
    block.store(target, [out])
    shape = [-1 if i == axis else 1 for i in range(parameter.ndim)]
    assert torch.equal(out, parameter * factors[members].view(shape))


@pytest.mark.usefixtures("_packed")
@pytest.mark.parametrize("name", CASES)
def test_chunks_cover_every_row_once_in_order(name: str) -> None:
    parameter, _, _, block = only(name)
    (matrix,) = block.load([[parameter]])
    pieces = list(block.chunks(matrix, matrix))
    assert [row for row, _ in pieces] == [sum(len(p) for _, (p, _) in pieces[:i]) for i in range(len(pieces))]
    assert torch.equal(torch.cat([piece for _, (piece, _) in pieces]), matrix)
    spread = block.spread(torch.arange(GROUPS + 1.0))
    assert all(torch.broadcast_shapes(block.rows(spread, row, p).shape, p.shape) == p.shape for row, (p, _) in pieces)


@pytest.mark.parametrize("name", [name for name in CASES if name != "vector"])
def test_peaks_and_chosen_slices_are_those_of_the_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "PACKED_ELEMENTS", 0)
    parameter, axis, members, block = only(name)
    (matrix,) = block.load([[parameter]])
    flat = parameter.movedim(axis, 0).flatten(1)
    assert torch.equal(block.slice_peaks(matrix), flat.amax(1))
    chosen = torch.tensor([1, 4])
    part, copy = block.part(chosen), block.select(matrix, chosen)
    assert torch.equal(part.slices, members[chosen])
    assert torch.equal(part.slice_peaks(copy), flat[chosen].amax(1))


def test_small_parameters_share_a_pack_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "PACKED_ELEMENTS", 60)
    monkeypatch.setattr(blocked, "CHUNK_ELEMENTS", 100)
    parameters = [drawn(50), drawn(40), drawn(30), drawn(200)]
    blocks = blocks_of([(p, 0, None) for p in parameters], GROUPS)
    assert sorted([len(p) for p in block.parameters] for block in blocks) == [[30], [50, 40], [200]]
    assert all(block.slices is None for block in blocks)
