"""Pieces of work that end well and badly, importable by a spawned process."""

from __future__ import annotations

import os
import signal
import time

from slimtask.bench.timing.isolated import Say, Unusable


def process_id(say: Say) -> int:
    return os.getpid()


def doubled(say: Say, number: int) -> int:
    say("doubling")
    return 2 * number


def raises(say: Say) -> None:
    raise ValueError("no such number.\nsecond line")


def loses_the_device(say: Say) -> None:
    say("kernel")
    raise Unusable("an illegal memory access")


def dies(say: Say) -> None:
    say("kernel")
    os.kill(os.getpid(), signal.SIGKILL)


def exits(say: Say) -> None:
    os._exit(3)


def hangs(say: Say) -> None:
    say("first")
    say("kernel")
    time.sleep(600)
