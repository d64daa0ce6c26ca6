"""Measured costs of the candidates, one JSON file a device; nothing is shipped, a machine measures its own.

Files lie in ``$XDG_CACHE_HOME/slimtask/costs`` (``~/.cache/slimtask/costs``), or in the folder that ``SLIMTASK_COSTS``
names. An entry counts only for the implementation it was measured with.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from slimtask.files import write_json
from slimtask.kernels.candidates import CANDIDATES, Candidate, candidate
from slimtask.kernels.device import Device
from slimtask.kernels.problem import Problem
from slimtask.measured import cache_folder, in_memory, keep

SCHEMA = 1
_MOST_BYTES = 2**26
_TYPES = {"int": (int,), "str": (str,), "float | int": (float, int), "float": (float, int), "bool": (bool,)}
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
_PROBLEM = {each.name: _TYPES[str(each.type)] for each in fields(Problem) if each.name != "device"}

Runs = Mapping[str, Callable[[], object]]
Timer = Callable[[Runs], Mapping[str, float]]
"""Returns the ms of each run, by name; the runs must be taken in turns, or their ratios drift with the clocks."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One measurement: ``ms`` of a candidate on a problem, made by the implementation that ``source`` hashes."""

    candidate: str
    source: str
    problem: Problem
    ms: float | int

    def __post_init__(self) -> None:
        candidate(self.candidate)
        if not (math.isfinite(self.ms) and self.ms > 0):
            raise ValueError(f"a time of {self.ms} ms for {self.candidate} is no measurement; measure it again.")

    @property
    def key(self) -> str:
        """Return what identifies the measurement within a device; tokens and density in buckets."""
        its = self.problem
        sizes = f"T{its.tasks} K{its.inputs} M{its.outputs} N{_bucket(its.tokens)}"
        shares = f"rho{_series(its.density):g} r{_rows(its.rows):.2f}"
        return f"{self.candidate} {self.source} {its.dtype} {its.pattern} {sizes} {shares}"

    @property
    def efficiency(self) -> float:
        """Return floor / measured."""
        return candidate(self.candidate).floor_ms(self.problem) / self.ms

    @property
    def place(self) -> str:
        """Return where the measurement was made, for people."""
        its = self.problem
        return f"{its.inputs} to {its.outputs}, N={its.tokens}, T={its.tasks}, rho={its.density:.2g}, r={its.rows:.2g}"


@dataclass(kw_only=True)
class Costs:
    """The measurements of one device, by key."""

    device: Device
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def load(cls, device: Device, folder: Path | str | None = None) -> Costs:
        """Return the costs of ``device``, none if it was never measured.

        Raises ValueError, naming the file, if it is damaged or there can be none.
        """
        path = costs_path(device, folder)
        try:
            content = in_memory(path) or _content(path)
            return cls(device=device, entries=_entries(content, device))
        except FileNotFoundError:
            return cls(device=device)
        except OSError as error:
            raise ValueError(_unreadable(path, error)) from None
        except _DAMAGE as error:
            raise ValueError(_damaged(path, error)) from None

    @classmethod
    def read(cls, path: Path | str) -> Costs:
        """Return the costs in a file, of whatever device they are.

        Raises ValueError, naming the file, if it is absent, damaged or none of costs.
        """
        try:
            content = _content(Path(path), named=True)
            device = Device.from_json(content["device"])
            return cls(device=device, entries=_entries(content, device))
        except OSError as error:
            raise ValueError(_unreadable(Path(path), error)) from None
        except _DAMAGE as error:
            raise ValueError(_damaged(path, error)) from None

    def save(self, folder: Path | str | None = None) -> Path:
        """Write the costs beside those already in the file, which is replaced whole, and return its path.

        Where nothing can be written in the ``folder`` that is given, that is an OSError, else a warning, and the costs
        are kept for this process.
        """
        path = costs_path(self.device, folder)
        self.entries = {**Costs.load(self.device, folder).entries, **self.entries}
        entries = {key: _to_json(entry) for key, entry in sorted(self.entries.items())}
        content = {"schema": SCHEMA, "device": self.device.to_json(), "entries": entries}
        if folder is None:
            keep(path, content, "SLIMTASK_COSTS")
        else:
            write_json(path, content)
        return path

    def add(self, name: str, problem: Problem, ms: float) -> None:
        """Keep ``ms`` of the candidate ``name`` on ``problem``; an entry in the same buckets is replaced."""
        if problem.device != self.device:
            raise ValueError(f"a cost of {problem.device} does not belong to those of {self.device}.")
        chosen = candidate(name)
        entry = Entry(candidate=name, source=chosen.source_hash(), problem=chosen.canonical(problem), ms=ms)
        self.entries[entry.key] = entry

    def of(self, chosen: Candidate, dtype: str) -> list[Entry]:
        """Return the entries of a candidate as it is implemented now."""
        source = chosen.source_hash()
        found = (each for each in self.entries.values() if each.candidate == chosen.name)
        return [each for each in found if each.source == source and each.problem.dtype == dtype]

    def measured_ms(self, chosen: Candidate, problem: Problem) -> float | None:
        """Return the measured ms, between measured tokens and densities interpolated in log space; None outside."""
        wanted = chosen.canonical(problem)
        lines: dict[float, list[tuple[float, float]]] = {}
        for entry in self.of(chosen, problem.dtype):
            its = entry.problem
            if _fixed(its) == _fixed(wanted):
                lines.setdefault(math.log(its.density), []).append((math.log(its.tokens), math.log(entry.ms)))
        across = [(x, between(line, math.log(wanted.tokens))) for x, line in lines.items()]
        found = between([(x, y) for x, y in across if y is not None], math.log(wanted.density))
        return None if found is None else math.exp(found)

    def nearest(self, chosen: Candidate, problem: Problem) -> Entry | None:
        """Return the measurement of a candidate, on the same operator, that is nearest to ``problem``."""
        wanted = chosen.canonical(problem)
        near = [each for each in self.of(chosen, problem.dtype) if each.problem.operator == wanted.operator]
        return min(near, key=lambda entry: (_distance(entry.problem, wanted), entry.key), default=None)

    def borrowed(self, problem: Problem) -> Entry | None:
        """Return the nearest measurement of dense products, of the candidates' own the one farthest from its floor.

        It tells how far from its floor a candidate must be expected that was never measured.
        """
        found = [self.nearest(each, problem) for each in CANDIDATES if each.form == "merged"]
        return min((each for each in found if each is not None), key=lambda entry: entry.efficiency, default=None)


def measure(
    problems: Iterable[Problem],
    *,
    timer: Timer,
    prepare: Callable[[Problem], Runs],
    folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Costs:
    """Return the device's costs with ``problems`` measured; the file is written after each, so a kill loses one.

    ``prepare`` makes the runs of a problem by candidate, ``timer`` takes them in turns; both for CPU tensors are in
    ``slimtask.kernels.runs``. ``progress`` is called with (problems done, problems in all).
    """
    grid = list(problems)
    if not grid or any(problem.device != grid[0].device for problem in grid):
        raise ValueError(f"{len(grid)} problems are not those of one device; measure each device by itself.")
    costs = Costs.load(grid[0].device, folder)
    for done, problem in enumerate(grid, start=1):
        for name, ms in timer(prepare(problem)).items():
            costs.add(name, problem, ms)
        costs.save(folder)
        if progress is not None:
            progress(done, len(grid))
    return costs


def costs_path(device: Device, folder: Path | str | None = None) -> Path:
    """Return the file of ``device`` in ``folder`` (default: $SLIMTASK_COSTS, else the cache)."""
    return costs_folder(folder) / device.file_name


def costs_folder(folder: Path | str | None = None) -> Path:
    """Return ``folder``, by default $SLIMTASK_COSTS, else the cache."""
    return Path(folder) if folder else cache_folder("costs", "SLIMTASK_COSTS")


def between(points: list[tuple[float, float]], x: float) -> float | None:
    """Return y at ``x`` on the straight lines between ``points``; None outside of them."""
    exact = [y for at, y in points if math.isclose(at, x, abs_tol=1e-9)]
    if exact:
        return exact[0]
    below, above = [p for p in points if p[0] < x], [p for p in points if p[0] > x]
    if not below or not above:
        return None
    (x0, y0), (x1, y1) = max(below), min(above)
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


class _NoCosts(ValueError):
    """What was read is whole, but something else."""


def _content(path: Path, *, named: bool = False) -> dict[str, Any]:
    """Return what a file holds; one that the user ``named`` may be of anything."""
    status = path.stat()
    if not path.is_dir() and (not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES):
        raise _NoCosts  # a pipe would never end
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise (_NoCosts() if named else error) from None
    if not isinstance(content, dict) or not {"schema", "device", "entries"} <= set(content):
        raise _NoCosts
    return content


def _damaged(path: Path | str, error: Exception) -> str:
    if isinstance(error, _NoCosts):
        return f"'{path}' is no file of costs; give one that `slimtask costs` wrote, or move this one away."
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"the costs '{path}' are damaged ({why}); delete the file and measure again."


def _unreadable(path: Path, error: OSError) -> str:
    """Say why there is no file of costs to read at ``path``."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        named = f"; give the file in it, '{files[0]}'" if len(files) == 1 else "; give one of the files in it"
        return f"'{path}' is a folder, and costs are a file{named if files else ', as `slimtask costs` writes them'}."
    blocked = next((each for each in path.parents if each.exists() and not each.is_dir()), None)
    if blocked is not None:
        return f"there can be no costs '{path}', as '{blocked}' is a file, not a folder; give another path."
    if isinstance(error, FileNotFoundError):
        return f"there is no file of costs '{path}'; `slimtask costs CHECKPOINT --on cuda` measures and names one."
    return f"the costs '{path}' cannot be read ({error.strerror}); check the path and its permissions."


def _fixed(problem: Problem) -> tuple[Any, ...]:
    """What must be equal for two problems to lie on one surface over tokens and density."""
    return problem.pattern, problem.tasks, problem.inputs, problem.outputs, _rows(problem.rows)


def _distance(one: Problem, other: Problem) -> float:
    """The factors between two problems, as a sum of logarithms; rows count by their difference."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("tokens", "tasks", "inputs", "outputs", "density")]
    other_pattern = float(one.pattern != other.pattern)
    return sum(abs(math.log(a / b)) for a, b in pairs) + 5 * abs(one.rows - other.rows) + other_pattern


def _bucket(tokens: int) -> int:
    """The nearest half octave."""
    return round(2 ** (round(2 * math.log2(tokens)) / 2))


def _series(density: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, 50 ... in logarithm, rounded to one digit."""
    decade = 10.0 ** math.floor(math.log10(density))
    steps = [decade * step for step in (1, 2, 5, 10)]
    return min(1.0, float(f"{min(steps, key=lambda step: abs(math.log(step / density))):.0e}"))


def _rows(share: float | int) -> float:
    """The nearest hundredth; no row and every row are apart from few and nearly all, which run otherwise."""
    return float(share) if share in (0, 1) else min(0.99, max(0.01, round(float(share), 2)))


def _to_json(entry: Entry) -> dict[str, Any]:
    return {"candidate": entry.candidate, "source": entry.source, "ms": entry.ms, **entry.problem.to_json()}


def _entries(content: Any, device: Device) -> dict[str, Entry]:
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']} instead of {SCHEMA}")
    if content["device"] != device.to_json():
        raise ValueError("it belongs to another device")
    entries = {key: _entry(value, device) for key, value in content["entries"].items()}
    wrong = [key for key, entry in entries.items() if key.partition(" ")[0] != entry.candidate]
    if wrong:
        raise ValueError(f"the entry '{wrong[0]}' does not describe itself")
    return {entry.key: entry for entry in entries.values()}  # buckets may be cut otherwise since


def _entry(value: dict[str, Any], device: Device) -> Entry:
    own = {"candidate": (str,), "source": (str,), "ms": (float, int)}
    for name, types in {**own, **_PROBLEM}.items():
        if type(value[name]) not in types:
            raise ValueError(f"{name} is {value[name]!r}")
    problem = Problem(device=device, **{name: value[name] for name in _PROBLEM})
    return Entry(problem=problem, **{name: value[name] for name in own})
