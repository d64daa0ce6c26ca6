"""Whole blocks and transformers on a GPU: T dense ones in one CUDA graph against the shared pass in another."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.delta.compare import Form, Place, row
from slimtask.bench.studies.delta.gpu_layers import Outcome, relative_error
from slimtask.bench.studies.delta.grid import DENSITY, TASKS
from slimtask.bench.studies.delta.networks import Maps, SharedBlock, Vits
from slimtask.bench.studies.delta.whole import BASE_FED, PATTERN, block_ratio, own_tokens
from slimtask.bench.timing.gpu_clock import Clock, replayed
from slimtask.bench.timing.isolated import Failed, Here, Lost, NoTime, Runner, Say
from slimtask.compress.structures.delta import Execution
from slimtask.export.shared.explain import explain

SECONDS = 120.0  # for a block or a transformer; what takes longer hangs


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A shared pass of a block or a transformer: the module, what it reads, and its FLOPs against T dense ones."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    flop_ratio: float
    rows: float


def measure_whole(
    clock: Clock,
    *,
    seconds: float,
    trunk: str = "vit_b_16",
    model: str = "ViT-B",
    tokens: int = 1024,
    image: int = 512,
    tasks: int = TASKS,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
    runner: Runner | None = None,
) -> Outcome:
    """Return the rows of a block and of a whole trunk; the trunk is left out if the block took all ``seconds``."""
    outcome, start, runner = Outcome(), time.monotonic(), runner or Here()
    for layer, size in (("block", tokens), ("vit", image)):
        place = Place(model=model, layer=layer, tokens=size if layer == "block" else (image // 16) ** 2 + 1)
        if time.monotonic() - start >= seconds:
            outcome.left_out.append(f"{model} {layer}")
            continue
        try:
            outcome.rows += runner.run(_subject_rows, trunk, tasks, size, place, clock, device, dtype, seconds=SECONDS)
        except NoTime:
            outcome.left_out.append(f"{model} {layer}")
        except (Failed, Lost) as error:  # reported, and fails the run
            outcome.failed.append({"name": f"{model} {layer}", "error": str(error)})
    return outcome


def _subject_rows(
    say: Say, trunk: str, tasks: int, size: int, place: Place, clock: Clock, device: str, dtype: torch.dtype
) -> list[dict[str, Any]]:
    subject = block_subject if place.layer == "block" else vit_subject
    with torch.no_grad():
        dense, forms = subject(trunk, tasks, size)
        return _rows(place, tasks, dense, forms, clock, device, dtype)


def block_subject(trunk: str, tasks: int, tokens: int) -> tuple[list[Shared], dict[str, Shared]]:
    """Return the dense blocks of the tasks and the shared forms: base-fed, and with 10 and 30 % changed rows."""
    vits = Vits(trunk, tasks=tasks, first=0, density=DENSITY, depth=2)
    x = torch.randn(1, tokens, vits.base.trunk.out_channels)
    blocks: list[Any] = [vits.merged_trunk(task) for task in vits.names]
    dense = [Shared(module=each.encoder.layers[-1], inputs=(x,), flop_ratio=1.0, rows=0.0) for each in blocks]
    forms = {}
    for name, execution in (("base-fed", BASE_FED), ("rows 0.1", _on_rows(0.1)), ("rows 0.3", _on_rows(0.3))):
        share = execution.rows or 0.0
        own = own_tokens(x, tasks - 1, share)
        for batched in (False, True):
            shared = vits.shared(execution, batched=batched)
            forms[f"{name}{', tasks batched' if batched else ''}"] = Shared(
                module=SharedBlock(shared, own=bool(own)),
                inputs=(x, *own),
                flop_ratio=block_ratio(shared, tokens),
                rows=share,
            )
    return dense, forms


def vit_subject(trunk: str, tasks: int, image: int) -> tuple[list[Shared], dict[str, Shared]]:
    """Return the dense trunks of the tasks and the shared forms: base-fed, and behind a shared prefix."""
    vits = Vits(trunk, tasks=tasks, first=0, density=DENSITY)
    later = Vits(trunk, tasks=tasks, first=vits.depth // 2, density=DENSITY)
    x = torch.randn(1, 3, image, image)
    dense = [Shared(module=later.merged_trunk(t), inputs=(x,), flop_ratio=1.0, rows=0.0) for t in later.names]
    forms = {}
    for name, made, execution in (
        ("base-fed", vits, BASE_FED),
        ("prefix, own-fed", later, Execution()),
        ("prefix, rows", later, _on_rows(0.1)),
    ):
        for batched in (False, True):
            shared = made.shared(execution, batched=batched)
            forms[f"{name}{', tasks batched' if batched else ''}"] = Shared(
                module=Maps(shared.trunk, made.names),
                inputs=(x,),
                flop_ratio=explain(shared, image, image).ratio,
                rows=0.0 if execution.feed == "base" else execution.rows or 1.0,
            )
    return dense, forms


def _on_rows(share: float) -> Execution:
    return Execution(rows=share)


def _rows(
    place: Place,
    tasks: int,
    dense: Sequence[Shared],
    forms: dict[str, Shared],
    clock: Clock,
    device: str,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """Return the rows: every form against the dense ones, its error against itself in float32."""
    runs = {"dense": _in_turn([_placed(each, device, dtype) for each in dense])}
    runs |= {name: _placed(each, device, dtype) for name, each in forms.items()}
    errors = {name: _rounding(each, runs[name], device) for name, each in forms.items()}
    replays = {name: [clock.capture(run)] for name, run in runs.items()}
    samples = clock.time(replays, cold=False)
    precision = str(dtype).removeprefix("torch.")
    name = torch.cuda.get_device_name() if device == "cuda" else device
    measured = replayed(samples, cuda=device == "cuda", device=name, precision=precision, shape=(place.tokens,))
    made = []
    for name, form in forms.items():
        described = Form(
            call=runs[name],
            pattern=PATTERN,
            density=DENSITY,
            rows=form.rows,
            tasks=tasks,
            flop_ratio=form.flop_ratio,
            max_rel_error=errors[name],
            reference="the same form in float32",
            base_included=True,
            also={"form": name, "l2": "warm", "dtype": precision},
        )
        made.append(row(place, described, measured[name], measured))
    return made


def _placed(form: Shared, device: str, dtype: torch.dtype) -> Callable[[], Any]:
    module = copy.deepcopy(form.module).to(device, dtype).eval()
    inputs = [each.to(device, dtype) for each in form.inputs]
    return lambda: module(*inputs)


def _rounding(form: Shared, run: Callable[[], Any], device: str) -> float:
    exact = _placed(form, device, torch.float32)()
    return max(relative_error(one, truth) for one, truth in zip(run(), exact, strict=True))


def _in_turn(runs: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    return lambda: [run() for run in runs]
