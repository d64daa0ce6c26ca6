"""Whole blocks and whole transformers: T dense ones against one pass that computes what the tasks share once."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from slimtask.bench.studies.delta.compare import Call, Form, in_turn, max_rel_error
from slimtask.bench.studies.delta.graphs import Session
from slimtask.bench.studies.delta.networks import Maps, SharedBlock, Vits
from slimtask.bench.studies.delta.pairs import export_module
from slimtask.compress.structures.delta import Execution
from slimtask.export.shared.explain import dense_flops, explain, step_flops

Array = Shaped[np.ndarray, "..."]
MERGED = "merged dense models, float32, ONNX Runtime"
DEFINITION = "the network's own definition, float32, PyTorch"
BASE_FED, ROWS = Execution(feed="base"), Execution(rows=0.1)
PATTERN = "hidden-units and heads"


def vit_forms(vits: Vits, *, image: int, folder: Path, threads: int, later: Vits) -> tuple[dict[str, Call], list[Form]]:
    """Return the baseline and the forms of a whole trunk on an image of ``image`` x ``image`` pixels.

    ``vits`` changes every block and is fed the base's stream; ``later`` changes the blocks behind a shared prefix and
    is fed its own, on all rows and on a tenth of them. T dense trunks are those of ``later``, merged.
    """
    x = torch.randn(1, 3, image, image)
    feeds = {"x": x.numpy()}
    dense = []
    for task in later.names:
        path = export_module(later.merged_trunk(task), (x,), ["y"], folder / f"dense_{task}.onnx", ["x"])
        dense.append(Session(path, feeds, threads=threads))
    merged = [session.outputs()["y"] for session in dense]
    forms = []
    for name, made, execution, batched in (
        ("base-fed", vits, BASE_FED, False),
        ("prefix, own-fed", later, Execution(), False),
        ("prefix, rows", later, ROWS, False),
        ("prefix, own-fed", later, Execution(), True),
        ("base-fed", vits, BASE_FED, True),
    ):
        truth = _definition(made, execution, x) if execution.feed == "base" else merged
        forms.append(_vit_form(name, made, execution, batched, x, truth, folder, threads))
    return {"dense": in_turn([session.call for session in dense])}, forms


def _vit_form(
    name: str,
    vits: Vits,
    execution: Execution,
    batched: bool,
    x: Tensor,
    truth: list[Array],
    folder: Path,
    threads: int,
) -> Form:
    shared, names = vits.shared(execution, batched=batched), list(vits.names)
    file = f"{name}{' batched' if batched else ''}.onnx".replace(", ", "_").replace(" ", "_")
    path = export_module(Maps(shared.trunk, names), (x,), names, folder / file, ["x"])
    session = Session(path, {"x": x.numpy()}, threads=threads)
    found = session.outputs()
    return Form(
        call=session.call,
        pattern=PATTERN,
        density=vits.density,
        rows=_rows(execution),
        tasks=len(names),
        flop_ratio=explain(shared, *x.shape[-2:]).ratio,
        max_rel_error=max_rel_error([found[task] for task in names], truth),
        reference=DEFINITION if execution.feed == "base" else MERGED,
        base_included=True,
        also={"form": _named(name, batched), "prefix": vits.prefix, "depth": vits.depth},
    )


def _definition(vits: Vits, execution: Execution, x: Tensor) -> list[Array]:
    network: Any = vits.network(execution)
    with torch.no_grad():
        features = network.trunk(x)
        return [features[task].numpy() for task in vits.names]


def block_forms(vits: Vits, *, tokens: int, folder: Path, threads: int) -> tuple[dict[str, Call], list[Form]]:
    """Return the baseline and the forms of the last block of ``vits``, which has two: base-fed, and on changed rows.

    A share of the rows of every sub-task's tokens differs from the base's. Attention is each sub-task's own, and
    behind it all rows differ: the MLP then reads the rows that differ most.
    """
    width = vits.base.trunk.out_channels
    x = torch.randn(1, tokens, width)
    blocks = [vits.merged_trunk(task).encoder.layers[-1] for task in vits.names]
    feeds, dense = {"x": x.numpy()}, []
    for task, block in zip(vits.names, blocks, strict=True):
        path = export_module(block, (x,), ["y"], folder / f"block_{task}.onnx", ["x"])
        dense.append(Session(path, feeds, threads=threads))
    forms = []
    for share, batched in ((0.0, False), (0.1, False), (0.3, False), (0.0, True)):
        execution = Execution(rows=share) if share else BASE_FED
        shared = vits.shared(execution, batched=batched)
        own = own_tokens(x, len(vits.names) - 1, share)
        truth = _merged_blocks(blocks, [x, *own]) if share else _base_fed_blocks(blocks, x)
        module = SharedBlock(shared, own=bool(own))
        named = {"x": x.numpy()} | {f"own_{task}": each.numpy() for task, each in enumerate(own)}
        path = folder / f"block_{share}_{batched}.onnx"
        export_module(module, (x, *own), list(vits.names), path, list(named))
        session = Session(path, named, threads=threads)
        found = session.outputs()
        forms.append(
            Form(
                call=session.call,
                pattern=PATTERN,
                density=vits.density,
                rows=share,
                tasks=len(vits.names),
                flop_ratio=block_ratio(shared, tokens),
                max_rel_error=max_rel_error([found[task] for task in vits.names], truth),
                reference="merged dense blocks, float32, PyTorch" if share else "float64, PyTorch",
                base_included=True,
                also={"form": _named("rows" if share else "base-fed", batched)},
            )
        )
    return {"dense": in_turn([session.call for session in dense])}, forms


def _merged_blocks(blocks: Sequence[Any], inputs: Sequence[Tensor]) -> list[Array]:
    with torch.no_grad():
        return [block(x).numpy() for block, x in zip(blocks, inputs, strict=True)]


def _base_fed_blocks(blocks: Sequence[Any], x: Tensor) -> list[Array]:
    """Return x + attention_t(x) + mlp_t(the base's tokens behind its attention) of every task, the base first."""
    made, between = [], None
    with torch.no_grad():
        for block in (copy.deepcopy(each).double() for each in blocks):
            attended = x.double() + block.self_attention(block.ln_1(x.double()), lambda site, value: value)
            between = attended if between is None else between
            made.append((attended + block.mlp(block.ln_2(between))).numpy())
    return made


def own_tokens(x: Tensor, tasks: int, share: float) -> list[Tensor]:
    """Return every sub-task's tokens, of which ``share`` differ from the base's; none if there are none."""
    made = []
    for _ in range(tasks if share else 0):
        own, rows = x.clone(), torch.randperm(x.shape[1])[: math.ceil(share * x.shape[1])]
        own[:, rows] = torch.randn(1, len(rows), x.shape[2])
        made.append(own)
    return made


def block_ratio(shared: Any, tokens: int) -> float:
    """Return the FLOPs of T dense last blocks over those of the shared one."""
    branches = shared.trunk.each()[-2:]
    dense = sum(dense_flops(branch, tokens) for branch in branches)
    added = sum(step_flops(branch, step, tokens) for branch in branches for step in branch.steps)
    return float(len(shared.trunk.tasks) * dense / (dense + added))


def _rows(execution: Execution) -> float:
    """Return the share of rows that a sub-task reads from its own stream: none if it is fed the base's."""
    if execution.feed == "base":
        return 0.0
    return 1.0 if execution.rows is None else execution.rows


def _named(name: str, batched: bool) -> str:
    return f"{name}, tasks batched" if batched else name


def summary(row: Mapping[str, Any]) -> str:
    """Return one line about a row, for whoever waits."""
    form = f" {row['form']}" if "form" in row else ""
    return (
        f"{row['model']} {row['layer']} N={row['tokens']} T={row['tasks']} {row['pattern']}{form} "
        f"{row['density']:g} rows {row['rows']:g} {row['output']}: {row['ms']:.2f} ms, {row['speedup']:.2f}x "
        f"(FLOPs {row['flop_ratio']:.2f}x), error {row['max_rel_error']:.1e}"
    )
