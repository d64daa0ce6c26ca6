"""The compiled passes against torch's, and what happens where nothing can be compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from slimtask.train.sparsity import native
from slimtask.train.sparsity.layout import input_channel_layout, output_channel_layout
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW

SHAPES = {
    "wide": (70, 150, 3, 3),
    "point": (130, 1100, 1, 1),
    "tall": (300, 40, 3, 3),
    "bias": (70,),
    "fc": (33, 300),
    "few": (3, 320, 3, 3),
}


@pytest.fixture
def _compiled() -> None:
    if native.library() is None:
        pytest.skip("no C compiler here")


@pytest.fixture(params=[1, 2, 3, 4])  # 4: more than "few" has rows
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def _run(axis: int, steps: int = 6) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    values["tall"].data = values["tall"].data.contiguous(memory_format=torch.channels_last)
    values["point"].data[:, ::3] *= 0.01
    values["wide"].data[::3] *= 0.01
    layout = (input_channel_layout if axis == 1 else output_channel_layout)(values.items())
    optimizer = ProximalAdamW(list(values.items()), layout, lr=1e-3)
    for step in range(steps):
        optimizer.strength = 0.0 if step < 2 else 0.3
        if step == 4:
            optimizer.hold(optimizer.zero_groups())
        for value in values.values():
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()
    return {name: value.detach() for name, value in values.items()}, optimizer.critical_strengths()


@pytest.mark.usefixtures("_compiled", "_threads")
@pytest.mark.parametrize("axis", [0, 1])
def test_both_ways_give_the_same_weights(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, critical = _run(axis)
    again, _ = _run(axis)
    assert all(torch.equal(mine[name], again[name]) for name in mine)  # to the bit, however the threads went
    monkeypatch.setattr(native, "library", lambda: None)
    theirs, expected = _run(axis)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(value == 0, theirs[name] == 0)
    torch.testing.assert_close(critical, expected, rtol=1e-5, atol=0)
    assert any(bool((value == 0).any()) for value in mine.values())


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("axis", [0, 1])
def test_every_cpu_rounds_alike(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas of one network on machines of several kinds stay equal: vectors of any width give the same bits."""
    mine, critical = _run(axis)
    plain = [flag for flag in native.FLAGS if not flag.startswith("-march")]
    for flags in (plain, [*plain, "-fno-tree-vectorize", "-fno-openmp-simd"]):
        with monkeypatch.context() as patch:
            other = native.compiled(flags)
            assert other is not None
            patch.setattr(native, "library", lambda other=other: other)
            theirs, expected = _run(axis)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert torch.equal(critical, expected)


@pytest.mark.usefixtures("_compiled")
def test_float64_is_left_to_torch(network: Any) -> None:
    values, layout = network(torch.float64)
    optimizer = ProximalAdamW(list(values.items()), layout)
    for value in values.values():
        value.grad = torch.ones_like(value)
    works = optimizer._walk.works(optimizer.param_groups, optimizer.state, optimizer._groups)
    assert native.update(works) == works
    assert not any(value.grad is None for value in values.values())


@pytest.mark.parametrize("case", ["no compiler", "a compiler that fails", "forbidden"])
def test_without_a_compiler_torch_does_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "no compiler":
        monkeypatch.setattr(native.shutil, "which", lambda name: None)
    elif case == "a compiler that fails":
        monkeypatch.setattr(native.shutil, "which", lambda name: "/bin/false")
    else:
        monkeypatch.setitem(os.environ, "SLIMTASK_NATIVE", "0")
    assert native.compiled() is None
