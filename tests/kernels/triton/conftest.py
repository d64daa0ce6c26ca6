"""What the Triton tests share: launches in the interpreter, rounded inputs, and error bounds from the arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

OLD_INTERPRETER = "TypeError('only 0-dimensional arrays can be converted to Python scalars')"
EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch: the kernel's module, the arrays and options of its launcher; ``bare`` leaves the bf16 cast out."""

    kernel: str
    arrays: dict[str, np.ndarray]
    dtype: str = "float32"
    dtypes: dict[str, str] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    tile: dict[str, int] | None = None
    overwrites: bool = False
    bare: bool = False
    transposed: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def launch() -> type[Launch]:
    return Launch


@pytest.fixture(scope="session")
def interpret(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, np.ndarray | str]]:
    """Return a function that runs named cases, each one or more launches in a row, in one process of the interpreter.

    A launch that ``overwrites`` gets the result of the one before. The answer is an array or the text of a ValueError.
    """

    def run(cases: dict[str, Sequence[Launch]]) -> dict[str, np.ndarray | str]:
        folder = tmp_path_factory.mktemp("interpreter")
        for name, launches in cases.items():
            described = []
            for number, each in enumerate(launches):
                arrays = f"{name}_{number}.npz"
                np.savez(folder / arrays, **each.arrays)
                described.append({**vars(each), "arrays": arrays})
            (folder / f"case_{name}.json").write_text(json.dumps(described))
        environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(folder / "cache")}
        worker = Path(__file__).with_name("worker.py")
        done = subprocess.run(
            [sys.executable, worker, folder], env=environment, capture_output=True, text=True, check=False
        )
        if OLD_INTERPRETER in done.stderr:
            pytest.skip("the interpreter of this Triton (3.6) runs no loop under numpy 2.4; a newer one does")
        assert done.returncode == 0, done.stderr
        errors = json.loads((folder / "errors.json").read_text())
        found = {name: folder / f"case_{name}.npy" for name in cases}
        return {name: errors.get(f"case_{name}") or np.load(path) for name, path in found.items()}

    return run


@pytest.fixture(scope="session")
def rounded() -> Callable[[np.ndarray, str], np.ndarray]:
    """Return a function that rounds float64 values to a dtype, as a float32 array."""
    return lambda values, dtype: torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()


@pytest.fixture(scope="session")
def bound() -> Callable[..., np.ndarray]:
    """Return the largest error allowed: float32 accumulation of K products, the epilogue, one rounding to the dtype.

    ``magnitude`` is the sum of the absolute values of everything that was added. GELU's slope is below 1.13. The
    interpreter cuts bfloat16 off instead of rounding it, which may cost a whole unit in the last place.
    """

    def allowed(
        expected: np.ndarray, magnitude: np.ndarray, terms: int, dtype: str, *, interpreted: bool = False
    ) -> np.ndarray:
        accumulation = 1.13 * (terms + 8) * EPSILON["float32"] * magnitude
        rounding = 1.01 if interpreted and dtype == "bfloat16" else 0.51
        return accumulation + rounding * EPSILON[dtype] * (np.abs(expected) + accumulation) + 1e-7

    return allowed
