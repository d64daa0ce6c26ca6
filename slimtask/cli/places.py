"""Where a verb writes: one function looks at every place, for all verbs, before any work is done."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimtask import __version__
from slimtask.errors import InputError
from slimtask.files import new_files, refuse_existing, refuse_unwritable, write_json

_OPTIONS = {"out": "--out", "plot": "--plot", "json_path": "--json"}
_NEW = ("compress", "export", "relate")  # the verbs that make --out at one stroke, and find it taken before the work
_SHARED = ("costs",)  # its --out is a folder of many files
_REPORT = re.compile(rb'\A\s*\{\s*"slimtask"\s*:\s*\{\s*"report"\s*:')
_FORMATS = (
    ".bin", ".ckpt", ".engine", ".gguf", ".gz", ".h5", ".hdf5", ".jpeg", ".jpg", ".json", ".keras", ".mlmodel", ".npy",
    ".npz", ".onnx", ".pb", ".pickle", ".pkl", ".plan", ".png", ".pt", ".pth", ".py", ".safetensors", ".svg", ".tar",
    ".tflite", ".trt", ".yaml", ".yml", ".zip",
)  # fmt: skip
"""Endings that promise a format."""


@dataclass
class _Run:
    """The verb that runs, and the reports that were not there when it began."""

    verb: str = ""
    fresh: tuple[Path, ...] = ()


_run = _Run()


def check_places(verb: str, arguments: Mapping[str, Any]) -> None:
    """Raise InputError unless every output among a verb's ``arguments`` can be written without losing anything.

    An output must not be an input or lie in one, no two may be in each other's way, none may end in what promises
    another format, and what exists is replaced only if it is a report that --json wrote (or holds nothing).
    """
    outputs = {name: Path(arguments[name]) for name in _OPTIONS if arguments.get(name) is not None}
    inputs = [path for name, value in arguments.items() if name not in _OPTIONS for path in _paths(value)]
    report = outputs.get("json_path")
    _run.verb, _run.fresh = verb, ()
    for name, path in outputs.items():
        if not _is_stream(path):
            _refuse_input(_OPTIONS[name], path, inputs)
    for name, path in outputs.items():
        for other, place in outputs.items():
            if name < other and not (name == "json_path" and other == "out" and verb in _SHARED):
                _refuse_clash(_OPTIONS[name], path, _OPTIONS[other], place)
    if report is not None:
        _check_report(report)
    for name, path in outputs.items():
        if not _is_stream(path):
            _refuse_other_format(verb, name, path, arguments)
            refuse_unwritable(path)
        if name == "plot" or (name == "out" and verb in _NEW):
            refuse_existing(path)


def write_report(path: Path, result: Any) -> None:
    """Write a verb's result to ``path`` as JSON that says whose it is. Raises InputError if that is taken meanwhile."""
    told = {"slimtask": {"report": _run.verb, "version": __version__}}
    content = told | (result if isinstance(result, dict) else {"result": result})
    if _is_stream(path):
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
    elif path in _run.fresh:
        with new_files(path) as place:
            write_json(place, content)
    else:
        _check_report(path)
        write_json(os.path.realpath(path), content)


def _check_report(path: Path) -> None:
    """Raise InputError if what is at ``path`` may not be replaced by a report; note if there is nothing."""
    if _is_stream(path):
        if not os.access(path, os.W_OK):
            raise InputError(f"--json '{path}' cannot be written; check its permissions, or give another path.")
        return
    if str(path) == "-":
        raise InputError("--json takes a file; for standard output give /dev/stdout.")
    if not os.path.lexists(path):
        _run.fresh = (*_run.fresh, path)
        return
    if path.is_dir():
        raise InputError(f"--json '{path}' is a folder; give the name of a file.")
    if not _replaceable(path):
        raise InputError(
            f"--json '{path}' exists and is no report that --json wrote, so it is not replaced; give another path."
        )


def _replaceable(path: Path) -> bool:
    """Return whether a file is empty, or begins as the reports of ``write_report`` do."""
    if not path.exists():  # a link to nowhere: the file is made where it leads
        return True
    with path.open("rb") as file:
        head = file.read(256)
    return not head or _REPORT.match(head) is not None


def _is_stream(path: Path) -> bool:
    """Return whether ``path`` is a device or a pipe, which is written to and never replaced: /dev/null, /dev/stdout."""
    try:
        special = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))  # may stand for a file, opened already
        return path.exists() and not path.is_dir() and (special or not path.is_file())
    except OSError:
        return False


def _paths(value: Any) -> Iterator[Path]:
    """Yield the paths in an argument of a verb."""
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, Path):
            yield item


def _refuse_input(option: str, path: Path, inputs: list[Path]) -> None:
    for given in inputs:
        if _same(path, given):
            raise InputError(f"{option} '{path}' is what the command reads; give another path.")
        if given.is_dir() and _inside(path, given):
            raise InputError(f"{option} '{path}' lies in '{given}', which the command reads; give another path.")


def _refuse_clash(option: str, path: Path, other: str, place: Path) -> None:
    """Raise InputError if two outputs are one, or one is to be a file where the other needs a folder of its own."""
    if _same(path, place):
        raise InputError(f"{option} and {other} are both '{path}'; give each a path of its own.")
    for inner, outer, first, second in ((path, place, option, other), (place, path, other, option)):
        if _inside(inner, outer) and not _is_stream(outer):
            raise InputError(f"{first} '{inner}' lies in {second} '{outer}'; give it a path outside of that.")


def _refuse_other_format(verb: str, name: str, path: Path, arguments: Mapping[str, Any]) -> None:
    """Raise InputError if the ending of an output promises a format that is not the one to be written."""
    ending = path.suffix.lower()
    if ending not in _FORMATS or name == "plot":  # a plot is whatever its ending says
        return
    if name == "out" and path.exists():  # the verb says what is there
        return
    own, what = ".json", "a report is JSON"
    if name == "out":
        own, what = "", f"what `{verb}` writes there is a folder"
        source = arguments.get("checkpoint")
        if verb == "compress" and not arguments.get("per_task"):
            own, what = ".safetensors", "a checkpoint is safetensors"
            if source is not None and source.suffix == ".onnx":
                own, what = ".onnx", "an ONNX file becomes one"
    if ending != own:
        better = path.with_suffix(own)
        raise InputError(f"{_OPTIONS[name]} '{path}' ends in {ending}, but {what}; call the output '{better}'.")


def _same(one: Path, other: Path) -> bool:
    try:
        if one.samefile(other):
            return True
    except OSError:
        pass
    return os.path.realpath(one) == os.path.realpath(other)


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
