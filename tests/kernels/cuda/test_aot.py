"""What is compiled ahead of time is all that is launched, and is found again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slimtask.kernels.cuda.aot import INPUTS, KERNELS, main, shipped
from slimtask.kernels.cuda.calls import HEIGHTS
from slimtask.kernels.cuda.compile import image_in
from slimtask.kernels.cuda.variants import (
    ELEMENTS,
    TARGETS,
    TENSOR_CORE,
    Gpu,
    Variant,
    blocks_variant,
    csr_variant,
    vectors_variant,
)

ROOT = Path(__file__).parents[3]
COMPILES_SLOWLY = """
import signal, sys, time
from slimtask.kernels.atomic import write_whole
from slimtask.kernels.cuda import aot

def compile_kernel(variant, target):
    time.sleep(0.3)
    return variant, target

def save(compiled, folder):
    path = folder / "{0.name}.{1}".format(*compiled)
    write_whole(path, b"made")
    return path

aot.compile_kernel, aot.save = compile_kernel, save
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    aot.main(["--out", sys.argv[1], "--sm", "90"])
"""


@contextmanager
def compiling(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which has written at least one file and has many to write."""
    (folder / "slow.py").write_text(COMPILES_SLOWLY)
    with subprocess.Popen(
        [sys.executable, str(folder / "slow.py"), str(folder / "made")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("1/")
        yield process


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("sm", TARGETS)
def test_no_layer_takes_a_variant_that_is_not_shipped(sm: int) -> None:
    gpu, draw = Gpu.of_sm(sm), random.Random(sm)
    there = shipped([gpu], tuple(ELEMENTS), KERNELS, INPUTS)
    for _ in range(300):
        tokens, inputs = draw.randint(1, 5000), draw.choice(INPUTS)
        element = draw.choice(TENSOR_CORE)
        base = draw.choice((element, "float32"))
        blocks, height = int(10 ** draw.uniform(0, 6)), draw.choice(HEIGHTS)
        single = draw.choice(tuple(ELEMENTS))
        assert {
            blocks_variant(element=element, base=base, tokens=tokens, inputs=inputs, blocks=blocks, gpu=gpu),
            vectors_variant(element=element, base=base, tokens=tokens, height=height, gpu=gpu),
            csr_variant(element=single, base=draw.choice((single, "float32")), tokens=tokens, inputs=inputs, gpu=gpu),
        } <= there


@pytest.mark.parametrize("sm", TARGETS)
def test_what_few_tokens_take_is_shipped(sm: int) -> None:
    gpu = Gpu.of_sm(sm)
    for element in ELEMENTS:
        there = shipped([gpu], [element], KERNELS, INPUTS)
        for tokens in range(1, 65):
            for inputs in INPUTS:
                assert csr_variant(element=element, base=element, tokens=tokens, inputs=inputs, gpu=gpu) in there


def test_what_it_writes_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    main(["--out", str(tmp_path / "made"), "--sm", "90", "--dtype", "float16", "--kernel", "transpose"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "made")
    variant = Variant(kernel="transpose", element="float16", base="float16")
    assert image_in(tmp_path / "made", variant, 90)[:4] == b"\x7fELF"
    assert b".target sm_80" in image_in(tmp_path / "made", variant, 86)
    with pytest.raises(FileNotFoundError, match=r"kernels\.cuda\.aot"):
        image_in(tmp_path, variant, 90)


@pytest.mark.parametrize("words", [["--dtype", "float32", "--kernel", "blocks"], ["--inputs", "0"], ["--sm", "70"]])
def test_nothing_to_compile_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "made"), *words])
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_an_interrupt_is_one_sentence_that_counts_what_is_there(tmp_path: Path) -> None:
    with compiling(tmp_path) as process:
        for each in (*children(process.pid), process.pid):  # as a terminal does it
            os.kill(each, signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    *lines, last = error.splitlines()
    assert all(re.match(r"\d+/\d+ ", line) for line in lines)
    told = re.fullmatch(r"aot: interrupted; (\d+) of (\d+) files were written to '(.+)', each of them whole; .*", last)
    assert told is not None
    made = list((tmp_path / "made").iterdir())
    assert (int(told[1]), told[3]) == (len(made), str(tmp_path / "made"))
    assert 0 < len(made) < int(told[2]) / 2  # nothing that waited was begun
    assert all(each.read_bytes() == b"made" for each in made)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_killed_parent(end: signal.Signals, tmp_path: Path) -> None:
    with compiling(tmp_path) as process:
        workers = children(process.pid)
        assert workers
        process.send_signal(end)
        process.communicate(timeout=10)  # workers that live on would hold the pipe
    for _ in range(500):
        if all(map(ended, workers)):
            return
        time.sleep(0.01)
    pytest.fail("workers go on")
