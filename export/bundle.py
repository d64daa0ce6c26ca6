"""The bundle: a directory of graphs, engines and weights, and the manifest that describes and guards them. No torch.

No file can run code: nothing outside the directory is ever read, sizes are checked before reading, and what runs was
hashed first.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from slimtask.errors import CheckFailed, InputError, first_problem
from slimtask.export.parity import Parity
from slimtask.files import open_regular, read_json
from slimtask.tasks import Frozen, Preprocessing, TaskSpec

MANIFEST = "manifest.json"
FUSED = "fused"
SCHEMA_VERSION: Literal[1] = 1
_MANIFEST_LIMIT_BYTES = 16 * 2**20
# Every component starts with a letter, digit or underscore: no absolute path, no "..", no hidden file can match.
_PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"

Backend = Literal["onnx", "tensorrt", "tensorrt-rtx"]


class File(Frozen):
    """One file of a bundle: its path inside the bundle, its size and its SHA-256."""

    path: str = Field(pattern=_PATH_PATTERN, max_length=256)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Artifact(File):
    """One executable file: an ONNX graph or an engine, the tasks it serves and the precision read back from it.

    ``role`` is the path it implements: "fused" or the name of its one task. ``precision_source`` says what was read:
    the "graph" (ONNX), the "network" (after parsing, before building) or the "engine" (its inspector). ``data`` names
    the files of ONNX external data. ``parity`` is against the PyTorch model, or None if the artifact could not run
    where it was built (an engine built without its GPU). ``plugins`` are the delta layers whose kernels are inside an
    engine ("DeltaBlocks"); it needs nothing else to run. ``parity_in_half`` is that of an fp16 graph's network run by
    PyTorch operator by operator in float16, which ONNX Runtime's CPU provider does not do.
    """

    backend: Backend
    role: str
    tasks: tuple[str, ...] = Field(min_length=1)
    precision: str
    precision_source: Literal["graph", "network", "engine"]
    opset: int | None = None
    targets: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    parity: Parity | None = None
    parity_in_half: Parity | None = None


class TensorSpec(Frozen):
    """One input or output of the graphs: name, static shape, dtype, layout ("NCHW" or "NC"), unit and kind."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    unit: str
    kind: str


class Manifest(Frozen):
    """What a bundle holds; written last, so a directory with a manifest is a whole bundle."""

    schema_version: Literal[1] = SCHEMA_VERSION
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    artifacts: tuple[Artifact, ...] = Field(min_length=1)
    data: tuple[File, ...] = ()
    versions: dict[str, str]
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file of the bundle besides the manifest."""
        return (*self.artifacts, *self.data)

    @property
    def parity(self) -> dict[str, Parity]:
        """Parity with the PyTorch model by artifact path, for the artifacts that were run."""
        return {artifact.path: artifact.parity for artifact in self.artifacts if artifact.parity is not None}

    @model_validator(mode="after")
    def _check_references(self) -> Manifest:
        names = [task.name for task in self.tasks]
        paths = Counter([MANIFEST, *(file.path for file in self.files)])
        known_data = {file.path for file in self.data}
        for path in (path for path, times in paths.items() if times > 1):
            raise ValueError(f"the file '{path}' is listed twice")
        if len(set(names)) != len(names) or [output.name for output in self.outputs] != names:
            raise ValueError("tasks and outputs must carry the same names, in the same order, each once")
        for artifact in self.artifacts:
            unknown = {*artifact.tasks} - {*names} or {*artifact.data} - known_data
            if unknown:
                raise ValueError(f"the artifact '{artifact.path}' refers to unknown {sorted(unknown)}")
            if artifact.role != FUSED and artifact.tasks != (artifact.role,):
                raise ValueError(f"the artifact '{artifact.path}' of role '{artifact.role}' serves {artifact.tasks}")
        return self


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: its directory (resolved) and its validated manifest.

    Examples:
        >>> from slimtask import Preprocessing, TaskSpec
        >>> from slimtask.compress import TaskOutputs
        >>> from slimtask.export import Bundle, export_bundle
        >>> from torch import nn
        >>> net = TaskOutputs(nn.Conv2d(3, 1, 1), [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> _ = export_bundle(net, "bundle", preprocessing=Preprocessing(height=16, width=16), paths=["fused"])
        >>> Bundle.open("bundle").damage()
        ()
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Return the bundle in directory ``path``, its manifest validated and its files confined to the directory.

        File contents are not read here: ``verify`` hashes them all and ``read`` hashes what it returns. Raises
        InputError if there is no bundle, its manifest is damaged or of another version, or a link leads elsewhere.
        """
        root = Path(path)
        if not root.is_dir():
            raise InputError(
                f"the bundle '{path}' is not a directory; give the directory that 'slimtask export' wrote."
            )
        root = root.resolve()
        file = _inside(root, MANIFEST)
        if not file.is_file():
            raise InputError(f"'{path}' has no regular file {MANIFEST}; it is not a bundle, or its export was cut off.")
        content = read_json(file, "the manifest", _MANIFEST_LIMIT_BYTES)
        bundle = cls(path=root, manifest=_parse_manifest(content, file))
        for listed in bundle.manifest.files:
            _inside(root, listed.path)
        return bundle

    def artifacts(self, backend: str) -> tuple[Artifact, ...]:
        """Return the artifacts of one backend ("onnx", "tensorrt", "tensorrt-rtx")."""
        return tuple(artifact for artifact in self.manifest.artifacts if artifact.backend == backend)

    def file(self, path: str) -> File:
        """Return the entry of the file at ``path`` inside the bundle; InputError if the manifest lists none."""
        for listed in self.manifest.files:
            if listed.path == path:
                return listed
        raise InputError(f"the bundle '{self.path}' lists no file '{path}'; see its {MANIFEST}.")

    def read(self, file: File) -> bytes:
        """Return the content of ``file``, hashed in the very bytes returned; InputError if it is not as exported."""
        problem, content = self._load(file)
        if problem is not None:
            raise InputError(f"the bundle '{self.path}' is damaged: {problem}; export it again or restore the file.")
        return content

    def damage(self) -> tuple[str, ...]:
        """Return one phrase per changed, missing and extra file; empty if the bundle is exactly what was exported."""
        listed = {file.path for file in self.manifest.files}
        found = (self._load(file)[0] for file in self.manifest.files)
        extra = sorted(path for path in _walk(self.path) if path not in listed and path != MANIFEST)
        return (*(problem for problem in found if problem), *(f"'{path}' is an extra file" for path in extra))

    def verify(self) -> None:
        """Hash every file again and return nothing; CheckFailed names each changed, missing and extra file."""
        damage = self.damage()
        if damage:
            raise CheckFailed(f"the bundle '{self.path}' is not what was exported: {'; '.join(damage)}.")

    def _load(self, file: File) -> tuple[str | None, bytes]:
        """Return (problem, content): what is wrong with ``file`` or None, and its bytes if nothing is."""
        place = _inside(self.path, file.path)
        if not os.path.exists(place):
            return f"'{file.path}' is missing", b""
        if not os.path.isfile(place):
            return f"'{file.path}' is not a regular file", b""
        try:
            with open_regular(place, "its file") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != file.bytes:
                    return f"'{file.path}' has {size} bytes instead of {file.bytes}", b""
                content = stream.read(file.bytes)
        except (InputError, OSError) as error:
            return f"'{file.path}' cannot be read ({str(error).rstrip('.')})", b""
        if hashlib.sha256(content).hexdigest() != file.sha256:
            return f"'{file.path}' has changed (its SHA-256 differs from the manifest)", b""
        return None, content


def _parse_manifest(data: Any, file: Path) -> Manifest:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"'{file}' has schema version {version!r}, this slimtask reads {SCHEMA_VERSION}; export the bundle again "
            "or install the slimtask that wrote it."
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        problem = first_problem(error, "as a whole")
        raise InputError(f"the manifest '{file}' is not valid at {problem}; export again.") from None


def _inside(root: Path, path: str) -> Path:
    """Return where ``path`` of the bundle at ``root`` (resolved) lies, links followed; InputError if that is outside.

    A link to another file of the bundle is one that a store makes of equal files.
    """
    place = Path(os.path.realpath(root / path))
    if not place.is_relative_to(root):
        raise InputError(
            f"'{path}' in the bundle '{root}' is a link that leads outside, to '{place}'; a bundle holds only its own "
            "files."
        )
    return place


def _walk(root: Path) -> Iterator[str]:
    """Yield the path of everything in ``root`` that is not a plain directory, relative to it."""
    for folder, folders, names in os.walk(root, followlinks=False):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(folder) / name).relative_to(root).as_posix()
