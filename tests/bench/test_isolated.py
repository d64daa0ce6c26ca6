"""Work in a process of its own: what hangs, dies or loses its device costs nothing else and is named."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from slimtask.bench.isolated import Failed, Here, Isolated, Lost


@pytest.fixture(scope="module")
def work() -> Iterator[ModuleType]:
    """Work by a name under which a spawned process, which takes over ``sys.path``, finds it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("isolated_work")


@pytest.fixture(scope="module")
def runner(work: ModuleType) -> Iterator[Isolated]:
    with Isolated() as made:
        yield made


def test_work_is_done_in_one_other_process(runner: Isolated, work: ModuleType) -> None:
    assert runner.run(work.doubled, 21, seconds=60.0) == 42
    process = runner.run(work.process_id, seconds=60.0)
    assert process != os.getpid()
    with pytest.raises(Failed, match=r"^ValueError: no such number\.$"):
        runner.run(work.raises, seconds=60.0)
    assert runner.run(work.process_id, seconds=60.0) == process


@pytest.mark.parametrize(
    ("lost", "at", "how"),
    [
        ("loses_the_device", "kernel", "Unusable: an illegal memory access"),
        ("dies", "kernel", "its process was killed by signal 9"),
        ("exits", "", "its process ended with status 3"),
    ],
)
def test_a_lost_process_is_replaced_and_what_took_it_is_named(
    runner: Isolated, work: ModuleType, lost: str, at: str, how: str
) -> None:
    before = runner.run(work.process_id, seconds=60.0)
    with pytest.raises(Lost) as caught:
        runner.run(getattr(work, lost), seconds=60.0)
    assert (caught.value.at, str(caught.value)) == (at, how)
    assert runner.run(work.process_id, seconds=60.0) != before


def test_what_hangs_is_killed(runner: Isolated, work: ModuleType) -> None:
    process = runner.run(work.process_id, seconds=60.0)
    start = time.monotonic()
    with pytest.raises(Lost, match="took longer than 1 s") as caught:
        runner.run(work.hangs, seconds=1.0)
    assert caught.value.at == "kernel"
    assert time.monotonic() - start < 5.0
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_leaving_ends_the_process(work: ModuleType) -> None:
    with Isolated() as made:
        process = made.run(work.process_id, seconds=60.0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_in_this_process_the_same_is_said(work: ModuleType) -> None:
    assert Here().run(work.doubled, 21, seconds=1.0) == 42
    with pytest.raises(Failed, match=r"^ValueError: no such number\.$"):
        Here().run(work.raises, seconds=1.0)
    with pytest.raises(Lost, match="illegal memory access") as caught:
        Here().run(work.loses_the_device, seconds=1.0)
    assert caught.value.at == "kernel"
