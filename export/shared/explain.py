"""What a SharedViT computes, branch by branch and task by task, in FLOPs (2 per multiply-add) of one image.

Counted are linear layers, attention's two products and the patch embedding; not norms, GELU, softmax and the heads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from slimtask.export.shared.branch import Branch
from slimtask.export.shared.choose import briefly
from slimtask.export.shared.plan import Step
from slimtask.export.shared.source import EMBEDDING
from slimtask.export.shared.vit import SharedTrunk, SharedViT

BASE = "(base)"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One task in one part of the trunk: what it does there, why, and its FLOPs; task "(base)" is the shared pass."""

    part: str
    task: str
    form: str
    why: str
    flops: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The lines of a SharedViT at one size, and the FLOPs of as many dense trunks as it has tasks."""

    lines: tuple[Line, ...]
    dense_flops: int

    @property
    def flops(self) -> int:
        """Return the FLOPs of the shared trunk."""
        return sum(line.flops for line in self.lines)

    @property
    def ratio(self) -> float:
        """Return dense over shared: a FLOP ratio, no speed."""
        return self.dense_flops / max(1, self.flops)

    def __str__(self) -> str:
        """Return a table, and the totals below it."""
        head = f"{'part':<28} {'task':<16} {'form':<20} {'MFLOP':>9}  why"
        rows = [f"{x.part:<28} {x.task:<16} {x.form:<20} {x.flops / 1e6:>9.2f}  {x.why}" for x in self.lines]
        total = (
            f"{self.flops / 1e9:.3f} GFLOP of {self.dense_flops / 1e9:.3f} for dense trunks: {self.ratio:.2f}x fewer"
        )
        return "\n".join([head, *rows, total])


def explain(shared: SharedViT, height: int, width: int) -> Explanation:
    """Return what ``shared`` computes of one image of ``height`` x ``width`` pixels, and why.

    Raises InputError where ``shared`` itself would: sides that are no whole patches, fewer tokens than a row budget.
    """
    trunk = shared.trunk
    rows, columns = trunk.patches(height, width)
    tokens = rows * columns + 1
    lines, dense = _embedding(trunk, tokens), _embedding_flops(trunk, tokens)
    for branch in trunk.each():
        dense += dense_flops(branch, tokens)
        if branch.base_runs:
            flops = dense_flops(branch, tokens)
            lines.append(Line(part=branch.name, task=BASE, form="dense", why="others build on it", flops=flops))
        for step in branch.steps:
            form = f"rows {step.row_count(tokens)}, {step.form}" if step.reads == "rows" else step.form
            why = f"{step.why}; {briefly(step.choice)}" if step.choice else step.why
            flops = step_flops(branch, step, tokens)
            lines.append(Line(part=branch.name, task=step.task, form=form, why=why, flops=flops))
    return Explanation(lines=tuple(lines), dense_flops=len(trunk.tasks) * dense)


def why_no_layer(shared: SharedViT) -> str:
    """Return why most of its steps do not run their first layer as base and delta."""
    steps = [step for branch in shared.trunk.each() for step in branch.steps if step.form not in ("shared", "layer")]
    if not steps:
        return "nothing changed in its branches"
    needless = "hidden units and heads are corrected in standard operators, which needs no delta of a layer"
    reasons = Counter(needless if step.form in ("units", "second") else step.why for step in steps)
    return reasons.most_common(1)[0][0]


def dense_flops(branch: Branch, tokens: int) -> int:
    """Return the FLOPs of one dense pass of the branch."""
    count = branch.base.count
    return tokens * (_first(branch, count) + _second(branch, count)) + _mixing(branch, tokens, count)


def step_flops(branch: Branch, step: Step, tokens: int) -> int:
    """Return the FLOPs that a task adds to the branch."""
    dense, rows, base = dense_flops(branch, tokens), step.row_count(tokens), branch.base
    added = base.sizes.get(step.task, 0)
    wide = tokens * _first(branch, added) + _mixing(branch, tokens, base.mixing.get(step.task, 0))
    wide += 2 * tokens * base.deltas.stored.get(step.task, 0)
    every = step.reads == "rows" and rows >= tokens and step.task not in branch.on_rows
    if every or step.form in ("merged", "thresholds"):
        return wide + dense
    if step.form == "layer" or (step.reads == "rows" and branch.core.name == "attention"):
        heads = _mixing(branch, tokens, base.count) + tokens * _second(branch, base.count)
        return wide + rows * _first(branch, base.count) + heads
    fresh = rows * (_first(branch, base.count) + _second(branch, base.count))
    if step.form == "units":
        return wide + fresh + tokens * 2 * _second(branch, added)
    if step.form == "second":
        return wide + fresh + tokens * _second(branch, base.count + added)
    return wide + fresh


def _first(branch: Branch, units: int) -> int:
    """Return the FLOPs of ``units`` of the first layer for one token."""
    return 2 * branch.base.width * units * branch.base.rows_per_unit


def _second(branch: Branch, units: int) -> int:
    """Return the FLOPs of the second layer's columns of ``units`` for one token."""
    return 2 * branch.base.width * units * branch.base.columns_per_unit


def _mixing(branch: Branch, tokens: int, units: int) -> int:
    """Return the FLOPs of queries by keys and weights by values of ``units`` heads; none in an MLP."""
    return 4 * tokens**2 * units * branch.base.columns_per_unit if branch.core.name == "attention" else 0


def _embedding(trunk: SharedTrunk, tokens: int) -> list[Line]:
    flops, own = _embedding_flops(trunk, tokens), list(trunk.own(EMBEDDING))
    lines = [Line(part=EMBEDDING, task=BASE, form="dense", why="others build on it", flops=flops)]
    return lines + [
        Line(part=EMBEDDING, task=task, form="merged", why="the embedding changed", flops=flops) for task in own
    ]


def _embedding_flops(trunk: SharedTrunk, tokens: int) -> int:
    return 2 * (tokens - 1) * trunk.part(EMBEDDING, "")["conv_proj.weight"].numel()
