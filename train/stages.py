"""Methods of several stages: each stage is a run of its own in a folder inside that of the whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from slimtask.errors import InputError
from slimtask.files import make_folder, refuse_existing, write_text
from slimtask.train import parallel
from slimtask.train.loop import Progress, Trainer, TrainResult, check_begun, launch
from slimtask.train.methods.base import Method
from slimtask.train.recipe import Recipe

STATE = "state.safetensors"


def open_folder(recipe: Recipe, out: Path, *, resume: bool) -> None:
    """Make the folder of a run of several stages, with its recipe.yaml; with ``resume`` check that it is this run's.

    Raises InputError if ``out`` exists (or, to resume, does not), or holds another recipe. Every process calls it.
    """
    if not resume:
        refuse_existing(out)
    else:
        check_begun(recipe, out)
    launch(recipe.train)  # from here on the processes know of each other
    parallel.meet()
    if parallel.rank() == 0 and not resume:
        make_folder(out, new=True)
        write_text(out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    parallel.meet()


def run_stage(name: str, recipe: Recipe, out: Path, method: type[Method], progress: Progress) -> TrainResult:
    """Return the result of the stage ``name``, trained in ``out / name``: begun, continued or found finished.

    A finished stage is only evaluated again. What a stage that was killed before its first state left is begun anew.
    """
    folder = out / name
    started = (folder / STATE).exists()
    parallel.meet()  # rank 0 goes on to write, so all must have looked by now
    if folder.exists() and not started and parallel.rank() == 0:
        shutil.rmtree(folder)
    parallel.meet()
    with vanishing_if_refused(out):
        return Trainer(recipe, folder, method, resume=started).run(progress)


@contextmanager
def vanishing_if_refused(out: Path) -> Iterator[None]:
    """Remove the folder of ``open_folder`` again if bad input is found before there is more in it than recipe.yaml.

    Else the run with the mistake mended would be told that its output exists, with nothing in it to resume.
    """
    try:
        yield
    except InputError:
        if parallel.rank() == 0 and out.is_dir() and [file.name for file in out.iterdir()] == ["recipe.yaml"]:
            shutil.rmtree(out)
        raise


def part_of(progress: Progress, lengths: Sequence[int], number: int, name: str) -> Progress:
    """Return the progress of stage ``number`` that tells ``progress`` of all stages, which have ``lengths`` steps."""
    before, total = sum(lengths[:number]), sum(lengths)

    def report(step: int, steps: int, text: str) -> None:
        progress(before + step, total, f"{name}: {text}")

    return report
