"""The kernels' own sources on a CPU: each variant compiled by g++ against the shim, run one thread block at a time."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from slimtask.kernels.cuda import calls, launch
from slimtask.kernels.cuda import compile as nvrtc
from slimtask.kernels.cuda.calls import Call
from slimtask.kernels.cuda.variants import Gpu, Variant, blocks_variant

SHIM = Path(__file__).with_name("shim")
SOURCES = Path(nvrtc.__file__).parent
FLAGS = ("-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-DSLIMTASK_HOST")
Build = Callable[[Variant], ctypes.CDLL]


def build(variant: Variant, sources: Path, folder: Path) -> ctypes.CDLL:
    """Return a variant of the sources in a folder, compiled into another one."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the simulator with")
    source, target = sources / f"{variant.kernel}.cu", folder / f"{variant.name}.so"
    defines = [f"-D{each}" for each in (*variant.defines, f"KERNEL={variant.kernel}", f'SOURCE="{source}"')]
    command = [compiler, *FLAGS, *defines, f"-I{SHIM}", str(SHIM / "entry.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return ctypes.CDLL(str(target))


class Simulator:
    """Runs and keeps calls; they are planned for ``gpu``, or blocks take ``variant``; ``seed`` orders the threads."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.calls: list[Call] = []
        self.seed = 0
        self.gpu = Gpu(sm=90, multiprocessors=3, shared_bytes=99 * 1024)
        self.variant: Variant | None = None

    def run(self, call: Call, device: object = None) -> None:
        self.calls.append(call)
        boxes = [
            ctypes.c_int(each) if isinstance(each, int) else ctypes.c_void_p(each.pointer) for each in call.arguments
        ]
        addresses = (ctypes.c_void_p * len(boxes))(*(ctypes.addressof(box) for box in boxes))
        kernel = self.build(call.variant).launch
        if kernel(addresses, call.grid, call.variant.threads, call.shared_bytes, self.seed):
            raise RuntimeError("the simulator stopped; what was wrong is on standard error")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("simulator")
    libraries: dict[Variant, ctypes.CDLL] = {}

    def library(variant: Variant) -> ctypes.CDLL:
        if variant not in libraries:
            libraries[variant] = build(variant, SOURCES, folder)
        return libraries[variant]

    return library


@pytest.fixture
def simulator(built: Build, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """Send the launches of this test to the CPU."""
    simulator = Simulator(built)
    monkeypatch.setattr(launch, "run", simulator.run)
    monkeypatch.setattr(launch, "gpu_of", lambda x: simulator.gpu)
    monkeypatch.setattr(calls, "blocks_variant", lambda **sizes: simulator.variant or blocks_variant(**sizes))
    return simulator


@pytest.fixture
def streamed(simulator: Simulator) -> Simulator:
    """Send blocks to two thread blocks that stream 64 tokens of the input along."""
    simulator.gpu = Gpu(sm=90, multiprocessors=1, shared_bytes=227 * 1024)
    simulator.variant = Variant(kernel="blocks", element="bfloat16", base="bfloat16", rows=64)
    return simulator


@pytest.fixture
def mutant(tmp_path: Path) -> Callable[[str, str, str], Build]:
    """Return a maker of simulators in whose source ``file`` the text ``old`` is ``new``: they must be found out."""

    def make(file: str, old: str, new: str) -> Build:
        folder = tmp_path / "sources"
        shutil.copytree(SOURCES, folder)
        text = (folder / file).read_text()
        assert text.count(old) == 1
        (folder / file).write_text(text.replace(old, new))
        libraries: dict[Variant, ctypes.CDLL] = {}

        def library(variant: Variant) -> ctypes.CDLL:
            if variant not in libraries:
                libraries[variant] = build(variant, folder, tmp_path)
            return libraries[variant]

        return library

    return make
