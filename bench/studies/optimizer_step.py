"""What a step of ProximalAdamW costs beside torch's AdamW on ResNet-50: `make optimizer`.

All optimisers own a copy of the network and step in turn, in a fresh order every round, after untimed gradients were
written: noise plus a pull towards target weights, whose groups have all sizes. The penalty holds that pull in balance,
so that about a fifth of the groups is exactly zero, some come and go, and the others change in every step.
"""

from __future__ import annotations

import copy
import ctypes
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimtask.bench.studies.harness import keep, parser_of, run_study
from slimtask.bench.timing.environment import environment
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.measured import version_of

BASELINE = "adamw_foreach"
LR = 1e-3
NOISE = 1e-3  # root mean square of the noise in every gradient
BETA2 = 0.999
DENSE_STEPS = 10  # without penalty, so that the metric is known before the penalty starts
STRENGTH = 0.5 * NOISE  # groups whose target is below half of the initial scale end at zero


class Stand:
    """One optimiser with its own copy of the network: ``pull`` writes gradients, ``step`` is what is timed."""

    def __init__(
        self, model: nn.Module, make: Callable[[list[tuple[str, Tensor]]], Any], scales: Mapping[str, Tensor]
    ) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = make(list(self.model.named_parameters()))
        self.targets = [(p, p.detach() * scales.get(name, 1.0)) for name, p in self.model.named_parameters()]
        for parameter, target in self.targets:
            parameter.data.copy_(target)

    def pull(self, noise: Tensor, offset: int) -> None:
        """Write the gradients of one step: a window of ``noise``, and the pull towards the target."""
        for parameter, target in self.targets:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            window = noise[offset : offset + parameter.numel()].view(parameter.shape)
            scale = NOISE / float(target.square().mean().sqrt().clamp(min=1e-3))
            torch.sub(parameter.detach(), target, out=parameter.grad).mul_(scale).add_(window)
            offset = (offset + parameter.numel()) % (len(noise) // 2)

    def mature(self, steps: int) -> None:
        """Make the moments those of a long run: after ``steps`` the second one is far below its expectation."""
        for state in self.optimizer.state.values():
            state["exp_avg_sq"].div_(1 - BETA2**steps)
            state["step"].fill_(10_000.0)

    def step(self) -> float:
        """Return the milliseconds that one optimiser step took."""
        started = time.perf_counter()
        self.optimizer.step()
        return (time.perf_counter() - started) * 1e3


def coupled_layout(parameters: Iterable[tuple[str, Tensor]]) -> Any:
    """Return a GroupLayout over the filters of torchvision's ResNet-50, their BatchNorms and its residual streams.

    What the dependency graph finds: every filter with gamma and beta behind it; in a stage, all that add into the
    stream (the last convolution of each block and the projection) together.
    """
    from slimtask.train.sparsity import GroupLayout, Member

    named = dict(parameters)
    starts: dict[str, int] = {}
    members, count = [], 0
    for name, parameter in named.items():
        if parameter.ndim != 4:
            continue
        layer = name.removesuffix(".weight")
        norm = layer.replace("downsample.0", "downsample.1").replace("conv", "bn")
        stream = layer.split(".")[0] if layer.endswith(("conv3", "downsample.0")) else layer
        if stream not in starts:
            starts[stream] = count
            count += len(parameter)
        groups = torch.arange(len(parameter)) + starts[stream]
        members += [Member(parameter=part, axis=0, groups=groups) for part in (name, f"{norm}.weight", f"{norm}.bias")]
    return GroupLayout(members=members, shapes={name: tuple(parameter.shape) for name, parameter in named.items()})


def group_scales(layout: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Return, for every grouped parameter, a factor per slice: the same within a group, uniform in [0, 1.5]."""
    factor = torch.rand(len(layout), generator=generator) * 1.5
    scales = {}
    for member in layout.members:
        shape = [1, 1, 1, 1] if member.parameter.split(".")[-2].startswith(("conv", "0")) else [1]
        shape[member.axis] = -1
        scales[member.parameter] = factor[member.groups].view(shape)
    return scales


def stands(seed: int = 0) -> dict[str, Stand]:
    """Return all candidates: torch's AdamW in its two fast forms, ours without groups, and with two layouts."""
    from torchvision.models import resnet50

    from slimtask.train.sparsity import ProximalAdamW, input_channel_layout

    torch.manual_seed(seed)
    model = resnet50()
    generator = torch.Generator().manual_seed(seed)
    layouts = {
        "input_channel": input_channel_layout(model.named_parameters()),
        "coupled": coupled_layout(model.named_parameters()),
    }
    found = {
        BASELINE: Stand(model, partial(torch.optim.AdamW, lr=LR, foreach=True), {}),
        "adamw_fused": Stand(model, partial(torch.optim.AdamW, lr=LR, fused=True), {}),
        "proximal_no_groups": Stand(model, partial(ProximalAdamW, lr=LR), {}),
    }
    for name, layout in layouts.items():
        make = partial(ProximalAdamW, layout=layout, lr=LR)
        found[f"proximal_{name}"] = Stand(model, make, group_scales(layout, generator))
    return found


def keep_freed_memory() -> bool:
    """Return whether the C allocator was told to reuse freed memory instead of returning it to the system.

    AdamW's foreach form makes temporaries of the network's size. Left alone, glibc sometimes gives them back in every
    step, and the page faults double its time; the fair baseline is the faster mode.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_threshold = -1, -3
    return bool(mallopt(mmap_threshold, 2**25)) and bool(mallopt(trim_threshold, 2**31 - 1))


def measure(candidates: Mapping[str, Stand], *, rounds: int, settle: int, threads: int) -> dict[str, Any]:
    """Return the JSON-ready result of ``rounds`` interleaved rounds after ``settle`` untimed ones."""
    keeps_memory = keep_freed_memory()
    torch.set_num_threads(threads)
    order = list(candidates)
    shuffle = random.Random(0)
    largest = max(p.numel() for stand in candidates.values() for p in stand.model.parameters())
    noise = torch.randn(4 * largest, generator=torch.Generator().manual_seed(0)) * NOISE
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(settle + rounds):
        shuffle.shuffle(order)
        offset = shuffle.randrange(2 * largest)
        for name in order:
            candidates[name].pull(noise, offset)
            spent = candidates[name].step()
            if index >= settle:
                samples[name].append(spent)
        if index + 1 == DENSE_STEPS:
            for name in order:
                candidates[name].mature(DENSE_STEPS)
                if _is_sparse(candidates[name].optimizer):
                    candidates[name].optimizer.strength = STRENGTH
    run_id = uuid.uuid4().hex
    conditions = Conditions(
        backend="torch",
        backend_version=version_of("torch") or "",
        device="cpu",
        precision="fp32",
        threads=threads,
        batch=1,
        shape=(),
        run_id=run_id,
    )
    measured = {name: Measurement(samples_ms=tuple(taken), conditions=conditions) for name, taken in samples.items()}
    return {
        "what": "one optimiser step on torchvision's resnet50, float32, milliseconds",
        "baseline": BASELINE,
        "environment": environment(),
        "threads": threads,
        "freed_memory_kept": keeps_memory,
        "rounds": rounds,
        "candidates": {
            name: {
                "ratio": _ratio(measured[name], measured[BASELINE]),
                "groups": _groups(candidates[name].optimizer),
                "measurement": {
                    "conditions": conditions.model_dump(mode="json"),
                    "summary": measured[name].summary(),
                },
            }
            for name in candidates
        },
    }


def _ratio(mine: Measurement, baseline: Measurement) -> dict[str, float]:
    """Return how many times the baseline a step costs: medians with their interval, paired rounds, minima."""
    ratio = mine.ratio(baseline)
    return {
        "of_medians": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "median_of_pairs": float(np.median(np.divide(mine.samples_ms, baseline.samples_ms))),
        "of_minima": mine.minimum_ms / baseline.minimum_ms,
    }


def _groups(optimizer: Any) -> dict[str, Any]:
    """Return number of groups and the fraction of them that is zero, nothing for an optimiser without groups."""
    if not _is_sparse(optimizer):
        return {}
    zero = optimizer.zero_groups()
    return {"count": len(zero), "zero": float(zero.float().mean()), "strength": optimizer.strength}


def _is_sparse(optimizer: Any) -> bool:
    return getattr(optimizer, "layout", None) is not None


def table(result: Mapping[str, Any]) -> str:
    """Return the result as a small text table."""
    lines = [f"{'step of':24s}{'median ms':>11s}{'min ms':>9s}{'x baseline':>12s}{'95 % interval':>16s}{'zero':>7s}"]
    for name, entry in result["candidates"].items():
        summary, ratio = entry["measurement"]["summary"], entry["ratio"]
        zero = f"{entry['groups']['zero']:.0%}" if entry["groups"] else "-"
        lines.append(
            f"{name:24s}{summary['median']:11.1f}{summary['minimum']:9.1f}{ratio['median_of_pairs']:12.2f}"
            f"{ratio['low']:9.2f} -{ratio['high']:5.2f}{zero:>7s}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and, with ``--json FILE``, write the result."""
    parser = parser_of("optimizer_step", __doc__)
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of every optimiser")
    parser.add_argument("--settle", type=int, default=80, help="untimed steps before, until the sparsity is steady")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    options = parser.parse_args(arguments)
    result = measure(stands(), rounds=options.rounds, settle=options.settle, threads=options.threads)
    print(table(result))
    keep(options.json, result)


if __name__ == "__main__":
    run_study("optimizer", main)
