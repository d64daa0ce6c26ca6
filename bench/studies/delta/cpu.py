"""The measurement on the CPU through ONNX Runtime, section by section, the most important first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimtask.bench.studies.delta.compare import Call, Form, Place, compare
from slimtask.bench.studies.delta.grid import DENSITIES, DENSITY, TASKS, VIT_B, VIT_L, LinearCase, Vit, linear_cases
from slimtask.bench.studies.delta.linear import linear_forms

Made = tuple[dict[str, Call], list[Form]]
Pairs = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One interleaved run: ``make`` gives baselines and forms, given a folder for graphs."""

    place: Place
    make: Callable[[Path], Made]
    rounds: int
    prime: int = 1

    @property
    def name(self) -> str:
        """Return what it is called where it is left out."""
        return f"{self.place.model} {self.place.layer} N={self.place.tokens}"


def sections(*, threads: int, quick: bool, rounds: int) -> Iterator[Section]:
    """Yield all sections in the order in which they are run."""
    if quick:
        yield _mlp(Vit(name="tiny", width=64, heads=2), 32, ((3, DENSITY),), threads, rounds)
        yield _attention(Vit(name="tiny", width=64, heads=2), 32, ((3, DENSITY),), threads, rounds)
        yield _block("vit_tiny", "tiny", 32, 3, threads, rounds)
        yield _vit("vit_tiny", "tiny", 64, 8, 3, threads, rounds)
        for case in linear_cases(quick=True):
            yield _linear(case, 3, threads, rounds)
        return
    every = tuple((TASKS, density) for density in (DENSITY, *(each for each in DENSITIES if each != DENSITY)))
    yield _mlp(VIT_B, 1024, (*every, (3, DENSITY), (5, DENSITY)), threads, rounds)
    yield _vit("vit_b_16", "ViT-B", 512, 16, TASKS, threads, max(7, rounds // 3))
    yield _block("vit_b_16", "ViT-B", 1024, TASKS, threads, rounds)
    yield _attention(VIT_B, 1024, ((TASKS, 1 / VIT_B.heads),), threads, rounds)
    cases = linear_cases()
    first = [case for case in cases if case.vit is VIT_B and case.tokens == 1024]
    yield from (_linear(case, TASKS, threads, rounds) for case in first)
    yield _mlp(VIT_B, 2048, ((TASKS, DENSITY),), threads, rounds)
    yield _mlp(VIT_L, 1024, ((TASKS, DENSITY),), threads, rounds)
    yield from (_linear(case, TASKS, threads, rounds) for case in cases if case not in first)


Keep = Callable[[list[dict[str, Any]], list[str]], None]


def measure(
    *, threads: int, quick: bool, rounds: int, seconds: float, say: Callable[[str], None], keep: Keep
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows, and the names of the sections that no time was left for: none is begun after ``seconds``.

    ``keep`` is called with the rows so far and the names of what is not measured after each section.
    """
    import torch

    from slimtask.bench.studies.delta.whole import summary

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    start, rows = time.perf_counter(), []
    waiting = list(sections(threads=threads, quick=quick, rounds=rounds))
    while waiting and time.perf_counter() - start <= seconds:
        section = waiting.pop(0)
        say(f"{section.name}: {time.perf_counter() - start:.0f} s")
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            baselines, forms = section.make(Path(folder))
            made = compare(
                section.place,
                baselines,
                forms,
                threads=threads,
                rounds=section.rounds,
                max_seconds=seconds / 4,
                prime=section.prime,
            )
        for row in made:
            say(f"  {summary(row)}")
        rows += made
        keep(rows, [each.name for each in waiting])
    return rows, [each.name for each in waiting]


def _linear(case: LinearCase, tasks: int, threads: int, rounds: int) -> Section:
    return Section(
        place=Place(model=case.vit.name, layer=case.layer, tokens=case.tokens),
        make=lambda folder: linear_forms(
            case.sizes, tokens=case.tokens, tasks=tasks, points=case.points, threads=threads
        ),
        rounds=rounds,
    )


def _mlp(vit: Vit, tokens: int, points: Pairs, threads: int, rounds: int) -> Section:
    return _pair(vit, "mlp", tokens, points, threads, rounds)


def _attention(vit: Vit, tokens: int, points: Pairs, threads: int, rounds: int) -> Section:
    return _pair(vit, "attention", tokens, points, threads, rounds)


def _pair(vit: Vit, layer: str, tokens: int, points: Pairs, threads: int, rounds: int) -> Section:
    def make(folder: Path) -> Made:
        from slimtask.bench.studies.delta.pairs import Pair, pair_forms

        if layer == "mlp":
            base = Pair.random(vit.width, vit.hidden, 0)
        else:
            base = Pair.random(vit.width, vit.width, vit.width // vit.heads)
        return pair_forms(base, tokens=tokens, points=points, folder=folder, threads=threads)

    return Section(place=Place(model=vit.name, layer=layer, tokens=tokens), make=make, rounds=rounds)


def _block(trunk: str, model: str, tokens: int, tasks: int, threads: int, rounds: int) -> Section:
    def make(folder: Path) -> Made:
        from slimtask.bench.studies.delta.networks import Vits
        from slimtask.bench.studies.delta.whole import block_forms

        vits = Vits(trunk, tasks=tasks, first=0, density=DENSITY, depth=2)
        return block_forms(vits, tokens=tokens, folder=folder, threads=threads)

    return Section(place=Place(model=model, layer="block", tokens=tokens), make=make, rounds=rounds)


def _vit(trunk: str, model: str, image: int, patch: int, tasks: int, threads: int, rounds: int) -> Section:
    def make(folder: Path) -> Made:
        from slimtask.bench.studies.delta.networks import Vits
        from slimtask.bench.studies.delta.whole import vit_forms

        vits = Vits(trunk, tasks=tasks, first=0, density=DENSITY)
        later = Vits(trunk, tasks=tasks, first=vits.depth // 2, density=DENSITY)
        return vit_forms(vits, image=image, folder=folder, threads=threads, later=later)

    place = Place(model=model, layer="vit", tokens=(image // patch) ** 2 + 1)
    return Section(place=place, make=make, rounds=rounds, prime=0)  # seconds long: nothing is left of another's caches
