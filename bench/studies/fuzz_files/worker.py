"""Hostile cases one after the other in one process: ``python -m ...fuzz_files.worker BASE FIRST N FILE``.

Each case has a folder of its own with copies of the base's files. A JSON line is written to FILE before a case runs, so
that whatever kills the process is known, and after it with what was found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtask.bench.studies.fuzz_files.cases import Case, break_, case
from slimtask.bench.studies.fuzz_files.run import LIMIT_SECONDS, Ended, Watch, run_words
from slimtask.bench.studies.harness import parser_of

_SENTENCE_CHARACTERS = 1200


def check(seed: int, base: Path) -> dict[str, Any]:
    """Return what came of the case of ``seed``: kind, damage, command, status, seconds, and its faults."""
    made, r = case(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder, outside = Path(scratch, "work"), Path(scratch, "outside")
        shutil.copytree(base, folder)
        outside.mkdir()
        (outside / "secret").write_text("secret", "utf-8")
        break_(made, folder, r, outside)
        before = _contents(folder)
        watch = Watch({"secret": outside / "secret"})
        sys.modules.pop("fuzzed_network", None)
        ended = run_words(made.words, folder, limit=LIMIT_SECONDS)
        opened = watch.opened()
        watch.close()
        faults = [*_faults(ended), *(f"opened '{name}', outside of the folder" for name in opened)]
        faults += _lost(before, _contents(folder), made, ended)
    row = {"seed": seed, "kind": made.kind, "damage": made.damage, "file": made.file, "words": list(made.words)}
    said = " ".join(ended.error.split())[:300]
    return {**row, "status": ended.status, "seconds": ended.seconds, "said": said, "faults": faults}


def _faults(ended: Ended) -> list[str]:
    """Return what is wrong with how a command ended."""
    found = []
    if ended.status == -1:
        found.append(f"traceback: {ended.trace.strip().splitlines()[-1][:200]} at {_place(ended.trace)}")
    elif ended.status == -2:
        found.append(f"longer than {LIMIT_SECONDS} s at {_place(ended.trace)}")
    elif ended.status not in (0, 1, 2):
        found.append(f"exit status {ended.status}")
    if "Traceback (most recent" in ended.error:
        found.append("a traceback was printed")
    if ended.status in (1, 2) and not ended.error.strip():
        found.append("nothing was said")
    if len(ended.error) > _SENTENCE_CHARACTERS and ended.status == 2:
        found.append(f"{len(ended.error)} characters were said")
    if "\x1b" in ended.error:
        found.append("control characters were printed")
    return found


def _place(trace: str) -> str:
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File")]
    own = [line for line in lines if "slimtask" in line]
    return (own or lines or [""])[-1][-120:]


def _contents(folder: Path) -> dict[str, str]:
    """Return a fingerprint of every file below ``folder`` by name; links and what is no file by what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            found[name] = f"link to {os.readlink(path)}"
        elif stat.S_ISREG(mode):
            size = path.stat().st_size
            found[name] = str(size) if size > 2**27 else hashlib.sha256(path.read_bytes()).hexdigest()
        elif not stat.S_ISDIR(mode):
            found[name] = "no file"
    return found


def _lost(before: dict[str, str], after: dict[str, str], made: Case, ended: Ended) -> list[str]:
    """Return what a command changed of the user's files, or left half-made when it failed."""
    kept = {name: mark for name, mark in before.items() if "__pycache__" not in name}
    lost = [f"changed or removed '{name}'" for name, mark in kept.items() if after.get(name) != mark]
    new = [name for name in after if name not in before and "__pycache__" not in name]
    half = [name for name in new if ".partial" in name]
    if ended.status == 2 and made.kind != "options":
        half += [name for name in new if name.partition("/")[0] in ("new", "new.onnx") and name not in half]
    return [*lost, *(f"left '{name}' behind" for name in half[:3])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run COUNT cases from seed FIRST on."""
    parser = parser_of("fuzz_files.worker", __doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    with options.file.open("a", encoding="utf-8") as file:
        for seed in range(options.first, options.first + options.count):
            print(json.dumps({"seed": seed, "began": True}), file=file, flush=True)
            print(json.dumps(check(seed, options.base)), file=file, flush=True)


if __name__ == "__main__":
    main()
