"""Predictions of a bundle on image files, written as pictures and arrays. Runs without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from slimtask.errors import InputError
from slimtask.export.pictures import class_name, overview, picture, write_picture
from slimtask.export.runtime.image import load_image
from slimtask.export.runtime.runner import Runner
from slimtask.files import atomic_directory
from slimtask.tasks import Frozen, TaskSpec


class ImageResult(Frozen):
    """What was written for one image: the overview picture, per task a picture and an array, and a line on each."""

    image: str
    overview: str
    pictures: dict[str, str]
    arrays: dict[str, str]
    summary: tuple[str, ...]


class Predictions(Frozen):
    """The results of one run, and which files of the bundle served it."""

    choice: str
    images: tuple[ImageResult, ...]


def predict(
    bundle: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    tasks: Sequence[str] | None = None,
    backend: str = "onnxruntime-cpu",
    resize: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Predictions:
    """Return where the predictions on ``images`` were written in the new folder ``out``, whole or not at all.

    Per image and task: ``STEM_TASK.png`` and ``STEM_TASK.npy`` (the raw output, float32, batch axis dropped), and
    ``STEM.overview.png``. Raises InputError for what is no image, has another size (unless ``resize``), or two images
    of the same name.
    """
    stems = [Path(image).stem for image in images]
    if len(set(stems)) != len(stems):
        raise InputError("two images have the same file name, so their predictions would collide; run them separately.")
    results = []
    with Runner.open(bundle, tasks, backend) as runner, atomic_directory(out) as folder:
        for done, image in enumerate(images):
            results.append(_one(runner, Path(image), folder, Path(out), resize=resize))
            if progress is not None:
                progress(done + 1, len(images), Path(image).name)
        return Predictions(choice=runner.choice, images=tuple(results))


def _one(runner: Runner, image: Path, folder: Path, out: Path, *, resize: bool) -> ImageResult:
    pixels = load_image(image)
    outputs = runner.run(pixels, resize=resize)
    decoded = runner.decode(outputs)
    shown = pixels if pixels.shape[:2] == (runner.preprocessing.height, runner.preprocessing.width) else None
    pictures, arrays = {}, {}
    for task in runner.tasks:
        name = f"{image.stem}_{task.name}"
        np.save(folder / f"{name}.npy", outputs[task.name][0].astype(np.float32), allow_pickle=False)
        write_picture(folder / f"{name}.png", picture(task, decoded[task.name], shown))
        pictures[task.name], arrays[task.name] = str(out / f"{name}.png"), str(out / f"{name}.npy")
    together = f"{image.stem}.overview.png"
    write_picture(folder / together, overview(pixels, decoded, runner.tasks))
    return ImageResult(
        image=str(image),
        overview=str(out / together),
        pictures=pictures,
        arrays=arrays,
        summary=tuple(_summary(task, decoded[task.name]) for task in runner.tasks),
    )


def _summary(task: TaskSpec, decoded: np.ndarray) -> str:
    """Return a few words on a decoded prediction."""
    if task.kind == "segmentation":
        share = np.bincount(decoded.ravel(), minlength=task.channels) / decoded.size
        top = share.argsort()[::-1][:3]
        return f"{task.name} " + " ".join(f"{class_name(task, int(i))} {share[i]:.0%}" for i in top if share[i] > 0)
    if task.kind == "depth":
        return f"{task.name} {decoded.min():.2f} to {decoded.max():.2f} {'m' if task.unit == 'metre' else task.unit}"
    if task.kind == "classification":
        best = int(decoded.argmax())
        return f"{task.name} {class_name(task, best)} ({decoded[best]:.0%})"
    if task.kind == "multilabel":
        present = [class_name(task, int(index)) for index in np.flatnonzero(decoded > 0.5)]
        return f"{task.name} {' '.join(present) or 'none'}"
    return task.name
