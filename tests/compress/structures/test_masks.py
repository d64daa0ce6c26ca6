"""Masks: set algebra against numpy, files that come back or are refused, networks that are masked or left whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

A = torch.tensor([[True, True, False], [False, True, False]])
B = torch.tensor([[True, False, True], [False, True, False]])
HEAD = torch.tensor([True, False])
MASKS = Masks(per_task={"a": {"trunk": A, "head_a": HEAD}, "b": {"trunk": B}})


def test_the_union_keeps_what_any_task_keeps_and_a_head_is_its_own_tasks_matter() -> None:
    union = MASKS.union()
    assert union["trunk"].tolist() == [[True, True, True], [False, True, False]]
    assert union["head_a"].tolist() == [True, False]
    assert set(MASKS.of_task("b")) == {"trunk"}
    assert torch.equal(MASKS.union(["a"])["trunk"], A)
    assert MASKS.merged().shared["trunk"].tolist() == union["trunk"].tolist()


def test_density_and_iou_by_hand() -> None:
    assert MASKS.density() == {"trunk": 4 / 6, "head_a": 1 / 2}
    assert MASKS.total_density() == 5 / 8
    assert MASKS.total_density(["b"]) == 3 / 6
    assert MASKS.iou() == {"trunk": 2 / 4}  # two entries kept by both, four by either
    assert MASKS.total_iou(["a", "b"]) == 2 / 4
    assert Masks().total_density() == 1.0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), tasks=st.integers(2, 4))
def test_set_algebra_is_numpys(seed: int, tasks: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = {f"t{k}": {f"w{i}": rng.random((3, i + 1)) < 0.5 for i in range(3)} for k in range(tasks)}
    masks = Masks(per_task={t: {n: torch.from_numpy(m) for n, m in named.items()} for t, named in drawn.items()})
    both = any_ = kept = entries = 0
    for name in ("w0", "w1", "w2"):
        stack = np.stack([named[name] for named in drawn.values()])
        assert np.array_equal(masks.union()[name].numpy(), stack.any(0))
        both, any_ = both + stack.all(0).sum(), any_ + stack.any(0).sum()
        kept, entries = kept + stack.any(0).sum(), entries + stack[0].size
        assert masks.iou()[name] == (stack.all(0).sum() / stack.any(0).sum() if stack.any() else 1.0)
    assert masks.total_iou() == pytest.approx(both / any_)
    assert masks.total_density() == pytest.approx(kept / entries)


def test_masks_multiply_and_leave_the_network_whole_when_they_do_not_fit(
    small_net: Callable[..., MultiTaskNet],
) -> None:
    model = small_net()
    name = "trunk.stem.0.weight"
    weight = dict(model.named_parameters())[name].detach().clone()
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    masks = Masks(shared={name: keep})
    masked = masks.applied(model)
    torch.testing.assert_close(dict(masked.named_parameters())[name].detach(), weight * keep, rtol=0, atol=0)
    assert torch.equal(dict(model.named_parameters())[name], weight)
    for wrong, message in (
        ({name: keep, "trunk.stem.0.wight": keep}, "did you mean 'trunk.stem.0.weight'"),
        ({name: keep, "trunk.stem.1.weight": keep}, r"'trunk.stem.1.weight' is \[16\]"),
    ):
        with pytest.raises(InputError, match=message):
            Masks(shared=wrong).apply_(model)
        assert torch.equal(dict(model.named_parameters())[name], weight)
    masks.apply_(model)
    assert int((dict(model.named_parameters())[name] != 0).sum()) == int(keep.sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masks(shared={"w": A}, per_task={"a": {"w": A}}), "both for all tasks and for 'a'"),
        (lambda: Masks(per_task={"a": {"w": A}, "b": {"w": HEAD}}), "two shapes"),
        (lambda: MASKS.of_task("c"), "no masks of task 'c'"),
        (lambda: MASKS.union([]), "at least one task"),
        (lambda: MASKS.iou(["a"]), "at least two tasks"),
        (lambda: Masks(per_task={"a": {"w": A}, "b": {"v": A}}).iou(), "no masked parameter in common"),
    ],
)
def test_what_makes_no_sense_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_masks_of_numbers_are_refused() -> None:
    masks = Masks(shared={"w": A})
    masks.shared["w"] = A.float()  # given to the class directly, the type check of the tests would say so first
    with pytest.raises(InputError, match=r"the mask of 'w' \(shared\) is torch.float32; give boolean tensors"):
        masks.__post_init__()
