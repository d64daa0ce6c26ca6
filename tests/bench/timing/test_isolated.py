"""Work in a process of its own: what hangs, dies or loses its device costs nothing else and is named."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from slimtask.bench.timing.isolated import Failed, Here, Isolated, Lost, NoTime

ROOT = Path(__file__).parents[3]


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
    assert runner.run(work.process_id, seconds=60.0) == process


def test_after_an_error_nothing_of_its_process_is_used(runner: Isolated, work: ModuleType) -> None:
    """A sticky CUDA error may come up anywhere, and everything after it in that process fails."""
    process = runner.run(work.process_id, seconds=60.0)
    with pytest.raises(Failed, match=r"^ValueError: no such number\.$"):
        runner.run(work.raises, seconds=60.0)
    assert runner.run(work.process_id, seconds=60.0) != process


def test_a_process_that_died_meanwhile_costs_no_work(runner: Isolated, work: ModuleType) -> None:
    process = runner.run(work.process_id, seconds=60.0)
    os.kill(process, signal.SIGKILL)
    here = Path(f"/proc/{process}")
    while here.joinpath("stat").read_text().split()[2] != "Z" or len(list(here.joinpath("task").iterdir())) > 1:
        time.sleep(0.01)  # the first thread is a zombie before the others have ended, and the process goes on till then
    assert runner.run(work.doubled, 4, seconds=60.0) == 8


def test_no_work_outlasts_the_time_for_everything(work: ModuleType) -> None:
    with Isolated(2.0) as made:
        for number in range(2):
            with pytest.raises(NoTime):
                made.run(work.hangs, seconds=60.0 + number)


def test_what_cannot_be_sent_has_failed(runner: Isolated, work: ModuleType) -> None:
    with pytest.raises(Failed, match="pickle"):
        runner.run(work.doubled, lambda: 1, seconds=60.0)
    assert runner.run(work.doubled, 4, seconds=60.0) == 8


def test_a_killed_parent_leaves_no_process_behind(work: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import isolated_work\nfrom slimtask.bench.timing.isolated import Isolated\n"
        "if __name__ == '__main__':\n    made = Isolated()\n"
        "    print(made.run(isolated_work.process_id, seconds=60.0), flush=True)\n"
        "    made.run(isolated_work.hangs, seconds=60.0)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(500):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.01)
    pytest.fail("the process goes on")


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
    with pytest.raises(Lost, match="took longer than 1 s") as caught:
        runner.run(work.hangs, seconds=1.0)
    assert caught.value.at == "kernel"
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
