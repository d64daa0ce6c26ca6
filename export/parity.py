"""Parity: how far a candidate's outputs lie from a reference's, with the tolerance that decides. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from slimtask.errors import InputError
from slimtask.tasks import Frozen, Preprocessing, TaskSpec

Statistic = Literal["max", "p99", "mean"]

TOLERANCES: dict[str, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest relative error accepted by default, by precision of the artifact; the reference is always float32."""


class OutputError(Frozen):
    """Error of one output: ``|a - b|``, and the same divided by ``scale = max|b|`` of the reference ``b``.

    Dividing by the scale of the whole output, rather than element by element, keeps a difference of 1e-7 next to a
    zero from counting as an infinite one. Class numbers and booleans differ or do not: their error is 0 or 1 an entry.
    ``statistic`` says which relative error is judged.
    """

    scale: float = Field(ge=0)
    max_abs: float = Field(ge=0)
    mean_abs: float = Field(ge=0)
    p99_abs: float = Field(ge=0)
    max_rel: float = Field(ge=0)
    mean_rel: float = Field(ge=0)
    p99_rel: float = Field(ge=0)
    statistic: Statistic = "max"

    @property
    def judged(self) -> float:
        """The relative error that is held against the tolerance."""
        return {"max": self.max_rel, "p99": self.p99_rel, "mean": self.mean_rel}[self.statistic]


class Parity(Frozen):
    """Errors per output, and the tolerance on the one judged; true only if every output is within it."""

    outputs: dict[str, OutputError] = Field(min_length=1)
    tolerance: float = Field(gt=0, allow_inf_nan=False)
    inputs: int = Field(ge=1, description="how many inputs were tried")

    def __bool__(self) -> bool:
        return self.error <= self.tolerance

    @property
    def error(self) -> float:
        """The judged relative error of the worst output."""
        return self.outputs[self.worst].judged

    @property
    def worst(self) -> str:
        """The name of the output with the largest judged error."""
        return max(self.outputs, key=lambda name: self.outputs[name].judged)

    def __str__(self) -> str:
        verdict = "within" if self else "beyond"
        size = f"{self.error:.2e} of its scale ({self.outputs[self.worst].statistic})"
        return f"'{self.worst}' differs by {size}, {verdict} the tolerance {self.tolerance:.0e}"


def check_parity(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    tolerance: float,
    ill_conditioned: Collection[str] = (),
) -> Parity:
    """Return the parity of ``candidate`` with ``reference``: arrays [inputs, ...] under the same names.

    The relative error is ``|a - b| / max|b|`` (see OutputError). Its maximum is judged, but for the outputs named in
    ``ill_conditioned`` its 99th percentile (see ``ill_conditioned_outputs``), and of class numbers and booleans the
    share that differs: rounding decides where two classes are equally likely. A NaN or an infinity on either side
    counts as an infinite error: what cannot be compared is not equal. Raises InputError if names, shapes or types
    (numbers, whole numbers) differ.
    """
    if not reference or set(reference) != set(candidate):
        raise InputError(
            f"the outputs {sorted(candidate)} cannot be compared with {sorted(reference)}; give the same output names."
        )
    outputs = {
        name: _output_error(name, reference[name], candidate[name], "p99" if name in ill_conditioned else "max")
        for name in reference
    }
    return Parity(outputs=outputs, tolerance=tolerance, inputs=max(len(array) for array in reference.values()))


def ill_conditioned_outputs(tasks: Iterable[TaskSpec]) -> frozenset[str]:
    """Return the tasks whose outputs amplify rounding without bound: unit vectors.

    Where a vector is nearly zero before it is normalised, its direction is rounding noise; measured on an untrained
    network, float32 alone moves a few such pixels by 6e-5.
    """
    return frozenset(task.name for task in tasks if task.kind == "normals")


def probe_inputs(preprocessing: Preprocessing, count: int = 3, seed: int = 0) -> np.ndarray:
    """Return float32 [count, 3, H, W]: seeded 8-bit images, normalised, in turn noise, a smooth ramp and one colour.

    Noise reaches every channel, the ramp resembles a photograph, and the flat image brings out border effects.
    """
    rng = np.random.default_rng(seed)
    height, width = preprocessing.height, preprocessing.width
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    images = []
    for index in range(count):
        if index % 3 == 0:
            image = rng.uniform(0, 256, (3, height, width))
        elif index % 3 == 1:
            frequency, phase = rng.uniform(2, 9, (2, 3, 1, 1)), rng.uniform(0, 6, (3, 1, 1))
            image = 127.5 + 127 * np.sin(frequency[0] * x + frequency[1] * y + phase)
        else:
            image = np.broadcast_to(rng.uniform(0, 256, (3, 1, 1)), (3, height, width))
        images.append(np.floor(image))
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
    return np.asarray((np.stack(images) / 255 - mean) / std, np.float32)


def _output_error(name: str, reference: np.ndarray, candidate: np.ndarray, statistic: Statistic) -> OutputError:
    if reference.shape != candidate.shape:
        raise InputError(
            f"output '{name}' has shape {candidate.shape}, the reference {reference.shape}; compare the same inputs."
        )
    counts = [array.dtype.kind in "biu" for array in (reference, candidate)]
    if counts[0] != counts[1]:
        raise InputError(f"output '{name}' is {candidate.dtype}, the reference {reference.dtype}; export it again.")
    if reference.size == 0:
        raise InputError(f"output '{name}' is empty (shape {reference.shape}); there is nothing to compare.")
    if counts[0]:
        reference, candidate, statistic = np.ones(reference.shape), reference == candidate, "mean"
    exact, other = reference.astype(np.float64), candidate.astype(np.float64)
    finite = bool(np.isfinite(exact).all() and np.isfinite(other).all())
    scale = float(np.abs(exact).max()) if finite else 0.0
    error = np.abs(other - exact) if finite else np.full(exact.shape, np.inf)
    absolute = float(error.max()), float(error.mean()), float(np.quantile(error, 0.99) if finite else np.inf)
    relative = [_ratio(value, scale) for value in absolute]
    return OutputError(
        scale=scale,
        max_abs=absolute[0],
        mean_abs=absolute[1],
        p99_abs=absolute[2],
        max_rel=relative[0],
        mean_rel=relative[1],
        p99_rel=relative[2],
        statistic=statistic,
    )


def _ratio(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return error / scale if scale > 0 else float("inf")
