"""Whatever surrounds a verb: it works, or says in a sentence why not, and libraries keep quiet."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from slimtask.cli.surroundings import Terminated, settled, speaks_for_all
from slimtask.errors import InputError
from slimtask.files import atomic_directory, atomic_file, new_files

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MPLBACKEND", "TORCH_CPP_LOG_LEVEL"):  # put back after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL")


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("value", ["x", "", "-1", "1.5"])
def test_variables_of_others_that_are_no_numbers_are_as_if_unset(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with settled():
        assert name not in os.environ
    assert speaks_for_all()


def test_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    monkeypatch.setenv("RANK", "3")  # of a batch system: no torchrun started this
    with settled():
        assert os.environ["OMP_NUM_THREADS"] == "2,1"
    assert speaks_for_all()


@pytest.mark.parametrize("rank", ["x", None])
def test_what_torchrun_must_set_is_named(rank: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name in ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(InputError, match=r"RANK is .* torchrun"), settled():
        pass


def test_a_foreign_backend_of_matplotlib_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("nonsense", "module://matplotlib_inline.backend_inline", "TkAgg"):
        monkeypatch.setenv("MPLBACKEND", backend)
        with settled():
            assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_a_stream_lacks_are_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with settled():
        print("± é \udcff 网")
    out.flush()
    assert b"\\udcff" in out.buffer.getvalue()  # type: ignore[attr-defined]


def test_libraries_keep_quiet_and_our_warnings_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with settled():
        warnings.warn_explicit("of another library", UserWarning, "/a/torch/b.py", 3, module="torch.b")
        warnings.warn_explicit("layers are empty.", UserWarning, "/a/slimtask/b.py", 3, module="slimtask.train.b")
        logging.getLogger("matplotlib.font_manager").warning("findfont")
        logging.getLogger("torch.onnx").error("failed")
    assert capsys.readouterr() == ("", "slimtask: warning: layers are empty.\n")
    assert logging.root.manager.disable == logging.NOTSET


def test_with_debug_libraries_speak() -> None:
    with settled(debug=True), pytest.warns(UserWarning, match="of another library"):
        warnings.warn_explicit("of another library", UserWarning, "/a/torch/b.py", 3, module="torch.b")


@pytest.mark.parametrize("writing", [atomic_file, atomic_directory, new_files])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(writing: object, number: signal.Signals, tmp_path: Path) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated) as stop, settled(), writing(tmp_path / "new") as place:  # type: ignore[operator]
            (place / "half" if place.is_dir() else place).write_text("half")
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert stop.value.exit_status == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_ends_at_once(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with settled():
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            time.sleep(0.1)  # what comes in the moment of the fork is lost, Python says
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_a_verb_with_its_status(
    slimtask: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("slimtask.bench.timing.environment.environment", lambda: signal.raise_signal(signal.SIGTERM))
    try:
        assert slimtask("doctor") == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "slimtask: stopped by a signal; nothing was written.\n"


def test_a_reader_who_leaves_does_not_make_the_status_that_of_a_failed_check() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for words in (["doctor"], ["--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-m", "slimtask", *words], stdout=writer, stderr=subprocess.PIPE, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    os.close(writer)


@pytest.mark.parametrize("words", [[], ["--debug"]])
def test_lines_that_c_code_writes_reach_the_user_only_with_debug(words: list[str]) -> None:
    code = (
        "import os, sys\n"
        "from slimtask.cli import app\n"
        "import slimtask.bench.timing.environment as environment\n"
        "def speak():\n"
        "    os.write(2, b'from C\\n')\n"
        "    print('from Python', file=sys.stderr)\n"
        "    raise app.SlimtaskError('a sentence.')\n"
        "environment.environment = speak\n"
        f"sys.argv = ['slimtask', *{words}, 'doctor']\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ("from C" in done.stderr) == bool(words)
    assert "from Python\n" in done.stderr
    assert "a sentence." in done.stderr
    assert done.returncode == (1 if words else 2)
