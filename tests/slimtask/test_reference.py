"""Every public name has an example that runs, and a place in the reference."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("slimtask", "slimtask.compress", "slimtask.export", "slimtask.train", "slimtask.bench")
NAMES = [(stage, name) for stage in STAGES for name in importlib.import_module(stage).__all__]
BUILDERS = ("mkdocs", "mkdocstrings", "material")
NEVER_RUN = {"slimtask.bench.sweep"}  # trains several networks


def page(stage: str) -> str:
    return (ROOT / "docs" / "reference" / f"{stage.rpartition('.')[2]}.md").read_text(encoding="utf-8")


def examples(stage: str) -> Iterator[doctest.DocTest]:
    """Yield the example of every public name, to be run without any name but its own imports."""
    package = importlib.import_module(stage)
    for name in package.__all__:
        yield from doctest.DocTestFinder(recurse=False).find(getattr(package, name), f"{stage}.{name}", globs={})


@pytest.mark.parametrize(("stage", "name"), NAMES)
def test_a_public_name_ends_with_an_example(stage: str, name: str) -> None:
    text, heading, example = inspect.getdoc(getattr(importlib.import_module(stage), name)).partition("\n\nExamples:\n")
    assert text
    assert heading
    assert example.startswith("    >>> ")
    assert all(line.startswith("    ") for line in example.splitlines())


@pytest.mark.parametrize("stage", STAGES)
def test_the_examples_of_a_stage_run(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report: list[str] = []
    for example in examples(stage):
        folder = tmp_path / example.name
        folder.mkdir()
        monkeypatch.chdir(folder)
        doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not report, "".join(report)


def test_hardly_an_example_is_left_out() -> None:
    skipped = {
        test.name
        for stage in STAGES
        for test in examples(stage)
        if any(doctest.SKIP in line.options for line in test.examples)
    }
    assert skipped == NEVER_RUN


@pytest.mark.parametrize("stage", STAGES)
def test_the_page_of_a_stage_lists_its_names(stage: str) -> None:
    lines = page(stage).splitlines()
    assert f"# {stage}" in lines
    assert f"::: {stage}" in lines
    for name in importlib.import_module(stage).__all__:
        assert f"      - {name}" in lines or f"::: {stage}.{name}" in lines


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, BUILDERS)), reason=f"{', '.join(BUILDERS)} are needed to build the pages"
)
def test_the_documentation_builds_and_shows_every_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for stage, name in NAMES:
        shown = (tmp_path / "reference" / f"{stage.rpartition('.')[2]}.html").read_text(encoding="utf-8")
        assert f'id="{stage}.{name}"' in shown
