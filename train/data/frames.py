"""A source whose image and targets each lie in a file of their own: what most data sets on disk are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from slimtask.tasks import TaskSpec, select_tasks
from slimtask.train.data.protocol import Sample
from slimtask.train.data.readers import image
from slimtask.train.data.reading import require_files, same_size

Reader = Callable[[Path], Tensor]


class FrameSource:
    """Frames of a data set; only the files of the wanted tasks must exist, and only they are read.

    Args:
        name: of the data set, for messages.
        root: its folder.
        tasks: what it can offer. wanted: names of the tasks to read (all for None).
        frames: per frame, the path below ``root`` of every column.
        columns: what the paths of a frame are: "image" or the name of a task; others are skipped.
        readers: per column, how its file is read (a tensor of a class that the transforms know); "image" has a default.
            Functions of a module, not lambdas: a source must be able to go to the process of a loader.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        tasks: Sequence[TaskSpec],
        wanted: Sequence[str] | None,
        frames: Sequence[Sequence[str]],
        columns: Sequence[str],
        readers: Mapping[str, Reader],
    ) -> None:
        self.root, self.tasks = root, select_tasks(tasks, wanted)
        names = {"image", *(task.name for task in self.tasks)}
        kept = [i for i, column in enumerate(columns) if column in names]
        self.columns = tuple(columns[i] for i in kept)
        # Strings, not Path objects: Taskonomy has 1.5 million files.
        self.frames = [tuple(frame[i] for i in kept) for frame in frames]
        self.readers = {"image": image, **readers}
        require_files((root / path for frame in self.frames for path in frame), name)

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, indices: Sequence[int]) -> list[Sample]:
        """Return the raw frames ``indices``; InputError names a damaged file, or one of another size."""
        return [self.read(index) for index in indices]

    def read(self, index: int) -> Sample:
        """Return one raw frame."""
        paths = {column: self.root / path for column, path in zip(self.columns, self.frames[index], strict=True)}
        sample = {column: self.readers[column](path) for column, path in paths.items()}
        maps = {path: sample[column] for column, path in paths.items() if column != "image"}
        same_size(sample["image"], maps, paths["image"])
        return sample

    def finish(self, sample: Sample) -> Sample:
        """Return the sample: nothing is derived."""
        return sample


def by_pattern(ids: Sequence[str], patterns: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the frames of image ids, a path per pattern (in which ``*`` stands for the id)."""
    return [tuple(pattern.replace("*", one) for pattern in patterns.values()) for one in ids]
