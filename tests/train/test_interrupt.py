"""Ctrl-C once is a flag, twice it stops at once, and afterwards it is what it was."""

from __future__ import annotations

import signal
import threading

import pytest

from slimtask.train.interrupt import interrupt_flag


def test_the_first_is_noted_the_second_stops_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupt_flag() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_no_handler_is_set() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interrupt_flag() as pressed:
            seen.append((pressed(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
