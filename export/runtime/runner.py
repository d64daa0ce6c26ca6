"""The runner: open a bundle for some tasks on some backend, then images in and predictions out. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from slimtask.errors import InputError, nearest
from slimtask.export.bundle import Artifact, Bundle
from slimtask.export.runtime.decode import decode
from slimtask.export.runtime.image import load_image, preprocess
from slimtask.export.runtime.ort import OrtSession
from slimtask.export.runtime.selection import STORED_AS, select_artifacts
from slimtask.export.runtime.trt import TrtSession, tensorrt_module
from slimtask.tasks import TaskSpec, select_tasks

Session = OrtSession | TrtSession
"""A loaded graph or engine."""


class Runner:
    """A bundle opened for some tasks on one backend; a context manager that frees its sessions.

    Examples:
        >>> import numpy
        >>> from slimtask import Preprocessing, TaskSpec
        >>> from slimtask.compress import TaskOutputs
        >>> from slimtask.export import Runner, export_bundle
        >>> from torch import nn
        >>> net = TaskOutputs(nn.Conv2d(3, 1, 1), [TaskSpec(name="depth", kind="depth", channels=1)])
        >>> _ = export_bundle(net, "bundle", preprocessing=Preprocessing(height=16, width=16), paths=["fused"])
        >>> with Runner.open("bundle", threads=1) as runner:
        ...     runner.run(numpy.zeros((16, 16, 3), numpy.uint8))["depth"].shape
        (1, 1, 16, 16)
    """

    def __init__(
        self, bundle: Bundle, tasks: tuple[TaskSpec, ...], sessions: Mapping[str, Session], choice: str, backend: str
    ) -> None:
        """Take the loaded ``sessions`` by artifact path; use ``open`` to make a runner."""
        self.bundle, self.tasks, self.choice, self.backend = bundle, tasks, choice, backend
        self.preprocessing = bundle.manifest.preprocessing
        self._sessions = dict(sessions)
        self._opened = len(self._sessions)

    @classmethod
    def open(
        cls,
        bundle: Bundle | Path | str,
        tasks: Sequence[str] | None = None,
        backend: str = "onnxruntime-cpu",
        threads: int | None = None,
    ) -> Runner:
        """Return a runner for ``tasks`` (all for None) that loads the smallest files serving them; see ``choice``.

        Backends: "onnxruntime-cpu" (on ``threads`` threads, None for all cores), "onnxruntime-cuda", "tensorrt",
        "tensorrt-rtx". Every file is hashed before it is loaded. Raises InputError for a damaged bundle, an unknown
        task or backend, and Unsupported for a missing library or device.
        """
        if backend not in STORED_AS:
            raise InputError(f"unknown backend '{backend}'{nearest(backend, STORED_AS)}")
        tasks = None if tasks is None else list(tasks)
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        artifacts, choice = select_artifacts(opened, tasks, backend)
        data = {name: opened.read(opened.file(name)) for name in sorted({n for a in artifacts for n in a.data})}
        sessions = {artifact.path: _load(opened, artifact, data, backend, threads) for artifact in artifacts}
        return cls(opened, select_tasks(opened.manifest.tasks, tasks), sessions, choice, backend)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The artifacts that are loaded."""
        return tuple(a for a in self.bundle.manifest.artifacts if a.path in self._sessions)

    def preprocess(self, image: np.ndarray | Path | str, *, resize: bool = False) -> np.ndarray:
        """Return float32 [1, 3, H, W] for a uint8 RGB image [H, W, 3] or the path of an image file."""
        pixels = load_image(image) if isinstance(image, str | Path) else image
        return preprocess(pixels, self.preprocessing, resize=resize)

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the raw outputs by task for a preprocessed ``image`` float32 [1, 3, H, W]."""
        expected = self.bundle.manifest.inputs[0].shape
        if not isinstance(image, np.ndarray) or image.shape != expected or image.dtype != np.float32:
            given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"the network takes float32 {expected}, not {given}; call preprocess first.")
        wanted = [task.name for task in self.tasks]
        outputs: dict[str, np.ndarray] = {}
        sessions = tuple(self._sessions.values())  # another thread may close the runner meanwhile
        if len(sessions) < self._opened:
            raise InputError("the runner is closed; open the bundle again.")
        for session in sessions:
            outputs |= session.run(image, [name for name in session.outputs if name in wanted])
        return {name: outputs[name] for name in wanted}

    def run(self, image: np.ndarray | Path | str, *, resize: bool = False) -> dict[str, np.ndarray]:
        """Return the raw outputs by task (logits, metres, unit vectors) for an 8-bit image or the path of one."""
        return self.infer(self.preprocess(image, resize=resize))

    def decode(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return predictions by task (labels, metres, unit vectors, probabilities) from what ``run`` returned."""
        for task in self.tasks:
            if task.name not in outputs:
                raise InputError(
                    f"there is no output of task '{task.name}' to decode; give what run or infer returned."
                )
        return {task.name: decode(task, outputs[task.name]) for task in self.tasks}

    def close(self) -> None:
        """Free every session; the runner cannot be used afterwards."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _load(bundle: Bundle, artifact: Artifact, data: Mapping[str, bytes], backend: str, threads: int | None) -> Session:
    content, name = bundle.read(artifact), f"'{bundle.path / artifact.path}'"
    if backend.startswith("onnxruntime"):
        own = {location: data[location] for location in artifact.data}
        return OrtSession(content, own, backend=backend, threads=threads, name=name)
    return TrtSession(tensorrt_module(backend), content, name=name)
