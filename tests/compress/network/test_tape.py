"""The tape as data: operations in order, with the values that they read and write."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.compress.network.tape import Failure, Operation, Tape
from slimtask.compress.network.trace import record
from slimtask.errors import InputError


def test_operations_come_in_order_with_shapes_and_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    tape = record(model, torch.zeros(2, 3, 8, 8))
    names = [op.name for op in tape.operations]
    assert [name for name in names if name in ("convolution", "relu", "addmm")] == ["convolution", "relu", "addmm"]
    assert tape.outputs["output"].shape == (2, 5)
    assert set(tape.leaves.values()) == {*dict(model.named_parameters()), *dict(model.named_buffers())}
    assert not tape.computed


def test_an_argument_is_read_by_place_or_by_name() -> None:
    op = Operation(name="flatten", pointwise=False, args=("x", 1), kwargs={"end_dim": 2}, outputs=())
    assert (op.argument(1, "start_dim", 0), op.argument(2, "end_dim", -1), op.argument(3, "other", 7)) == (1, 2, 7)


def test_a_tape_that_ended_early_is_one_sentence_with_the_place() -> None:
    whole = Tape()
    assert whole.whole("Net") is whole
    failed = Tape(failure=Failure("ValueError", "no", "trunk.stem", 2))
    with pytest.raises(InputError, match=r"Net does not run on the example input \(ValueError: no, in module 'trunk"):
        failed.whole("Net")
    assert str(Failure("ValueError", "no", "")) == "ValueError: no"
