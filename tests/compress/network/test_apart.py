"""A process apart: its answer comes back, and nothing else of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch import nn

from slimtask.compress.network.apart import FORKS, apart, first_line
from slimtask.errors import CheckFailed, InputError, SlimtaskError

pytestmark = pytest.mark.skipif(not FORKS, reason="processes cannot be forked here")


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def run() -> NoReturn:
        raise error

    return run


def children() -> set[int]:
    """Return the processes that this one has started and not yet buried."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(word) for word in file.read().split()}


def test_data_comes_back_whole() -> None:
    made = apart(lambda: {"x": torch.arange(5), "n": [1.5, None], "big": b"x" * 3_000_000})
    assert torch.equal(made["x"], torch.arange(5))
    assert made["n"] == [1.5, None]
    assert made["big"] == b"x" * 3_000_000  # more than a pipe holds at once


def test_nothing_of_the_parent_changes() -> None:
    model, seen, state = nn.Linear(2, 2), [], torch.get_rng_state()

    def run() -> int:
        model.train(False)
        model.weight.detach().zero_()
        seen.append(torch.rand(3))
        os.environ["SLIMTASK_TEST_APART"] = "1"
        return os.getpid()

    before = model.weight.detach().clone()
    assert apart(run) != os.getpid()
    assert model.training
    assert torch.equal(model.weight, before)
    assert not seen
    assert "SLIMTASK_TEST_APART" not in os.environ
    assert torch.equal(torch.get_rng_state(), state)


def test_one_apart_inside_another() -> None:
    assert apart(lambda: apart(lambda: 20) + 1) == 21


@pytest.mark.parametrize("kind", [InputError, CheckFailed, SlimtaskError])
def test_errors_of_slimtask_keep_their_class_and_words(kind: type[SlimtaskError]) -> None:
    with pytest.raises(kind, match=r"^give more\.$") as caught:
        apart(raising(kind("give more.")))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (KeyError("a"), "KeyError: 'a'"),
        (ZeroDivisionError(), "ZeroDivisionError: ZeroDivisionError"),
        (SystemExit(2), "SystemExit: 2"),
        (RuntimeError("x" * 1000), f"RuntimeError: {'x' * 300}"),
    ],
)
def test_any_other_exception_becomes_one_line(error: BaseException, words: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        apart(raising(error))
    assert str(caught.value) == words


def test_an_answer_that_is_no_data_is_one_line_too() -> None:
    with pytest.raises(RuntimeError, match="pickle"):
        apart(lambda: lambda: 1)


@pytest.mark.parametrize(
    "end",
    [lambda: os._exit(3), lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)],
    ids=["3", "0", "kill"],
)
def test_a_process_that_dies_is_named(end: Callable[[], None]) -> None:
    before = children()
    with pytest.raises(RuntimeError, match=r"the process that ran it (ended|was killed)"):
        apart(end)
    assert children() == before


def test_an_interrupt_leaves_no_process_behind() -> None:
    before = children()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            apart(lambda: signal.sigwait([signal.SIGUSR1]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert children() == before


def test_no_file_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        apart(lambda: 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_first_line_of_what_says_nothing_is_its_type() -> None:
    assert first_line(ValueError("  \n ")) == "ValueError"
    assert first_line(ValueError("\n a\n b")) == "a"
