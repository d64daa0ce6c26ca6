"""The device that costs belong to: a GPU with its compute capability, or a CPU with its threads, and the libraries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from slimtask.measured import cpu_name, version_of

LIBRARIES = ("torch", "triton", "cuda-bindings")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU (``backend`` "cuda", with ``sm`` as 90 for compute capability 9.0) or a CPU with ``threads``.

    ``versions`` are (library, version) pairs: a cost measured with other libraries is another cost.
    """

    backend: Literal["cuda", "cpu"]
    name: str
    sm: int | None = None
    threads: int | None = None
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in ("cuda", "cpu"):
            raise ValueError(f"there is no backend '{self.backend}'; a device is 'cuda' or 'cpu'.")
        if (self.sm is None) == (self.backend == "cuda") or (self.threads is None) == (self.backend == "cpu"):
            raise ValueError(
                f"the device '{self.name}' is unclear: give sm for 'cuda' and threads for 'cpu', not both."
            )
        object.__setattr__(self, "versions", tuple(sorted(self.versions)))

    @classmethod
    def current(cls, backend: Literal["cuda", "cpu"] | None = None) -> Device:
        """Return the device of this process: the first GPU torch sees, else the CPU; ValueError if there is no GPU."""
        import torch

        if backend == "cpu" or (backend is None and not torch.cuda.is_available()):
            threads = torch.get_num_threads()
            return cls(backend="cpu", name=cpu_name(), threads=threads, versions=_versions("torch"))
        if not torch.cuda.is_available():
            raise ValueError("torch sees no GPU here; take the device 'cpu'.")
        major, minor = torch.cuda.get_device_capability()
        versions = (*_versions(*LIBRARIES), ("cuda", str(torch.version.cuda)))
        return cls(backend="cuda", name=torch.cuda.get_device_name(), sm=10 * major + minor, versions=versions)

    @property
    def unit(self) -> str:
        """Return what tells two devices of one name apart: "sm90", "2 threads"."""
        return f"sm{self.sm}" if self.backend == "cuda" else f"{self.threads} threads"

    @property
    def file_name(self) -> str:
        """Return the name of the device's file of costs; other libraries have another one."""
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.name} {self.unit}".lower()).strip("-")[:80]
        return f"{slug}-{hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:10]}.json"

    def has(self, library: str) -> bool:
        """Return whether ``library`` is among the versions."""
        return any(name == library for name, _ in self.versions)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Device:
        """Return the device that ``to_json`` described; TypeError, KeyError or ValueError for anything else."""
        names = {field.name for field in fields(cls)}
        if set(content) != names:
            raise ValueError(f"a device has {', '.join(sorted(names))}")
        made = cls(**{**content, "versions": tuple((str(a), str(b)) for a, b in content["versions"].items())})
        if not isinstance(made.name, str) or any(not isinstance(n, int | None) for n in (made.sm, made.threads)):
            raise TypeError(f"{made.name!r} with sm {made.sm!r} and threads {made.threads!r} is no device")
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the device as JSON takes it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "versions": dict(self.versions)}

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})"


def _versions(*libraries: str) -> tuple[tuple[str, str], ...]:
    return tuple((library, version) for library in libraries if (version := version_of(library)))
