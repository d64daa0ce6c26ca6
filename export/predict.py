"""Predictions of a bundle on image files, written as pictures and arrays. Runs without torch."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from slimtask.errors import InputError
from slimtask.export.pictures import class_name, overview, picture, write_picture
from slimtask.export.runtime.image import load_image
from slimtask.export.runtime.runner import Runner
from slimtask.files import atomic_directory
from slimtask.images import shown
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
    ``STEM.overview.png``. Where images would share a file, their place among ``images`` goes before
    (``2-STEM_TASK.npy``), see ``labels``.

    Raises InputError for what is no image or has another size (unless ``resize``), and for names that are not UTF-8.
    """
    for path in (*images, out):
        _refuse_nameless(path)
    results = []
    with Runner.open(bundle, tasks, backend) as runner, atomic_directory(out) as folder:
        names = labels(images, [task.name for task in runner.tasks])
        for done, (image, label) in enumerate(zip(images, names, strict=True), start=1):
            results.append(_one(runner, Path(image), label, folder, Path(out), resize=resize))
            if progress is not None:
                progress(done, len(images), Path(image).name)
        return Predictions(choice=runner.choice, images=tuple(results))


def _refuse_nameless(path: Path | str) -> None:
    """Raise InputError for a path that is no Unicode: neither JSON nor a terminal could tell where its results are."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of '{shown(path)}' is not UTF-8; rename it, or give another path.") from None


def labels(images: Sequence[Path | str], tasks: Sequence[str]) -> list[str]:
    """Return what the names of each image's results begin with: its stem, after its place (from 1) where those clash.

    ``a.png`` and ``a.jpg`` clash, as do ``a.png`` and ``a_depth.png`` if there are tasks ``edges`` and ``depth_edges``,
    and names that only differ in case or in how an accented letter is composed: some file systems hold them for one.
    """
    stems = [Path(image).stem for image in images]
    numbered = [f"{place}-{stem}" for place, stem in enumerate(stems, start=1)]
    alone = _alone(stems, tasks)
    mixed = [stem if free else other for stem, other, free in zip(stems, numbered, alone, strict=True)]
    # One may be called 2-a of itself. With a number on each no two agree: up to the first "-" they differ.
    return mixed if all(_alone(mixed, tasks)) else numbered


def _alone(names: Sequence[str], tasks: Sequence[str]) -> list[bool]:
    """Return for each name whether no other one writes a file of the same name."""
    files = [{_same_file(file) for file in _files(name, tasks)} for name in names]
    writers = Counter(file for written in files for file in written)
    return [all(writers[file] == 1 for file in written) for written in files]


def _files(label: str, tasks: Sequence[str]) -> list[str]:
    return [_overview(label), *(f"{label}_{task}{suffix}" for task in tasks for suffix in (".png", ".npy"))]


def _overview(label: str) -> str:
    return f"{label}.overview.png"


def _same_file(name: str) -> str:
    """Return a name as the file systems see it that look away from case and composition (APFS, NTFS, SMB)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _one(runner: Runner, image: Path, label: str, folder: Path, out: Path, *, resize: bool) -> ImageResult:
    pixels = load_image(image)
    outputs = runner.run(pixels, resize=resize)
    decoded = runner.decode(outputs)
    shown = pixels if pixels.shape[:2] == (runner.preprocessing.height, runner.preprocessing.width) else None
    pictures, arrays = {}, {}
    for task in runner.tasks:
        name = f"{label}_{task.name}"
        np.save(folder / f"{name}.npy", outputs[task.name][0].astype(np.float32), allow_pickle=False)
        write_picture(folder / f"{name}.png", picture(task, decoded[task.name], shown))
        pictures[task.name], arrays[task.name] = str(out / f"{name}.png"), str(out / f"{name}.npy")
    write_picture(folder / _overview(label), overview(pixels, decoded, runner.tasks))
    return ImageResult(
        image=str(image),
        overview=str(out / _overview(label)),
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
