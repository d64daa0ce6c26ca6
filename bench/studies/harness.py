"""What the studies share: command and arguments, rows kept and resumed, JSON with a page beside it, processes, tables.

A study's rows are written as they come, so that one that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NoReturn

from slimtask.bench.timing.environment import environment
from slimtask.errors import SlimtaskError
from slimtask.files import read_json, write_json, write_text

Row = dict[str, Any]
Cell = Callable[[Mapping[str, Any]], str]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def parser_of(study: str, about: str | None) -> argparse.ArgumentParser:
    """Return the parser of ``python -m slimtask.bench.studies.STUDY``."""
    return argparse.ArgumentParser(prog=f"python -m slimtask.bench.studies.{study}", description=about)


def command_of(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> str:
    """Return the command line as it was given."""
    return " ".join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])


def stamped(command: str) -> dict[str, Any]:
    """Return the command, the versions and the machine of a result."""
    machine = environment()
    return {"command": command, "versions": machine.pop("versions", {}), "machine": machine}


def known_rows(path: Path | None, key: str = "rows", *, settings: Mapping[str, Any] | None = None) -> list[Row]:
    """Return the rows under ``key`` that a run left in ``path``: none where it had other ``settings``, if any."""
    if path is None or not path.exists():
        return []
    known = read_json(path, "result")
    return list(known.get(key, ())) if settings is None or known.get("settings") == settings else []


def keep(path: Path | None, result: Mapping[str, Any], page: Callable[[Mapping[str, Any]], str] | None = None) -> None:
    """Write the result to ``path``, if any, and its Markdown page, if it has one, beside it."""
    if path is not None:
        write_json(path, result)
        if page is not None:
            write_text(path.with_suffix(".md"), page(result))


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def run_study(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Exit with what ``main`` returns; what is wrong with its input is one sentence."""
    try:
        sys.exit(main())
    except SlimtaskError as error:
        say(f"{name}: {error}")
        sys.exit(error.exit_status)


def run_module(module: str, arguments: Sequence[str], log: Path, timeout_seconds: float) -> str:
    """Return "" if ``python -m module`` on one thread ended well, else how it ended; its output goes to ``log``."""
    with log.open("ab") as out:
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments],
                stdout=out,
                stderr=out,
                timeout=timeout_seconds,
                env={**os.environ, **_ONE_THREAD},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"took longer than {timeout_seconds:.0f} seconds"
    if done.returncode == 0:
        return ""
    ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{ended}: {lines[-1][:300]}" if lines else ended


def in_parallel(
    work: Callable[[str], dict[str, Any]],
    names: Sequence[str],
    *,
    jobs: int,
    done: Callable[[dict[str, Any]], None],
    title: str,
) -> None:
    """Call ``work`` on every name, ``jobs`` at a time, and ``done`` on each answer as it comes; a bar says how far."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    running: dict[str, float] = {}
    lock = threading.Lock()
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(max(1, jobs)) as pool:
        bar = progress.add_task(title, total=len(names))

        def one(name: str) -> dict[str, Any]:
            with lock:
                running[name] = time.perf_counter()
                progress.update(bar, description=f"{title}: {', '.join(running)}")
            try:
                return work(name)
            finally:
                with lock:
                    del running[name]

        for future in as_completed([pool.submit(one, name) for name in names]):
            done(future.result())
            progress.advance(bar)


def in_chunks(
    run: Callable[[int, int], list[Row]],
    seeds: range,
    *,
    size: int,
    jobs: int,
    title: str,
    so_far: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Return the rows of ``run(first, count)`` over all seeds in order, at most ``size`` seeds a call.

    ``so_far`` is called with the rows that are there after each.
    """
    rows: dict[int, Row] = {}
    chunks = {str(seeds[start]): seeds[start : start + size] for start in range(0, len(seeds), size)}

    def work(first: str) -> dict[str, Any]:
        return {"rows": run(int(first), len(chunks[first]))}

    def done(chunk: dict[str, Any]) -> None:
        rows.update({row["seed"]: row for row in chunk["rows"]})
        so_far([rows[seed] for seed in sorted(rows)])

    in_parallel(work, list(chunks), jobs=jobs, done=done, title=title)
    return [rows[seed] for seed in sorted(rows)]


def number(key: str, form: str) -> Cell:
    """Return the cell that shows the number under ``key``, a dash where there is none."""

    def cell(row: Mapping[str, Any]) -> str:
        value = row.get(key)
        return "-" if value is None or isinstance(value, str) else format(value, form)

    return cell


def text(key: str, longest: int = 200) -> Cell:
    """Return the cell that shows the text under ``key``, cut to ``longest`` characters, on one line."""
    return lambda row: " ".join(str(row.get(key, "")).split()).replace("|", "\\|")[:longest]


def table(columns: Mapping[str, Cell], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table with a row for each of ``rows``."""
    return lines_of([*columns], [[cell(row) for cell in columns.values()] for row in rows])


def lines_of(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of texts."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *cells])


def facts(*found: Mapping[str, Any]) -> str:
    """Return machine and versions as the last section of a page."""
    lines = "\n".join(f"- {name}: {value}" for each in found for name, value in each.items())
    return f"## Machine and versions\n\n{lines}\n"
