"""What must hold of every fuzzed network, each checked against a truth of its own.

Run as ``python -m slimtask.bench.fuzz_checks FIRST COUNT FILE`` it appends one JSON line per network to FILE.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.fuzz_networks import ARCHITECTURE, Chain, network, side_of
from slimtask.bench.kill import Killed, kill_half_
from slimtask.bench.onnx_check import largest_rel_error, onnx_rel_error
from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.budget import Budget, choose
from slimtask.compress.cuts import slice_axis
from slimtask.compress.groups import Group, find_groups
from slimtask.compress.importance import score_channels
from slimtask.compress.inputs import call, named_outputs
from slimtask.compress.rebuild import rebuild
from slimtask.compress.remove import Compressed, remove_channels, remove_zeros
from slimtask.compress.trace import named_tensors, plain_attention
from slimtask.tasks import Preprocessing

TOLERANCE = 1e-5
ONNX_TOLERANCE = 1e-4


class Findings:
    """The failures of one network by check, and figures about it."""

    def __init__(self, seed: int) -> None:
        self.failures: list[dict[str, str]] = []
        self.figures: dict[str, Any] = {"seed": seed}

    def expect(self, holds: bool, check: str, words: str) -> None:
        """Note a failure of ``check`` unless it holds."""
        if not holds:
            self.failures.append({"check": check, "error": words})

    def run(self, check: str, function: Callable[[], Any]) -> Any:
        """Return the function's answer; an exception is a failure of ``check``, and the answer None."""
        try:
            return function()
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            self.expect(False, check, f"{type(error).__name__} at {where}: {str(error).strip()[:300]}")
            return None


def check_network(seed: int, folder: Path, *, onnx: bool = True) -> dict[str, Any]:
    """Return the row of network ``seed``: its blocks, what was removed, every failure, seconds."""
    started = time.perf_counter()
    found = Findings(seed)
    net = network(seed)
    found.figures["blocks"] = [_name(block) for block in getattr(net, "blocks", [net])]
    groups = found.run("find_groups", lambda: find_groups(net, example_of(seed)))
    if groups is not None:
        found.figures |= {"groups": len(groups), "refused": sum(group.refused is not None for group in groups)}
        if any(group.refused is None for group in groups):
            _check_pruning(seed, net, groups, found, folder, onnx=onnx)
            _check_zeros(seed, groups, found, folder)
    seconds = round(time.perf_counter() - started, 2)
    status = "fail" if found.failures else "pass"
    return {**found.figures, "status": status, "failures": found.failures, "seconds": seconds}


def example_of(seed: int) -> Tensor:
    """Return an input of network ``seed``, zeros, [1, 3, side, side]."""
    return torch.zeros(1, 3, side_of(seed), side_of(seed))


def noise_of(seed: int) -> Tensor:
    """Return inputs of network ``seed`` that no certificate has seen, [3, 3, side, side]."""
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    return torch.randn(3, 3, side_of(seed), side_of(seed), generator=generator)


def _check_pruning(
    seed: int, net: nn.Module, groups: Sequence[Group], found: Findings, folder: Path, *, onnx: bool
) -> None:
    """Half of every group goes, whatever it weighs; the truth is the dense network whose readers ignore them."""
    before = {name: tensor.clone() for name, tensor in named_tensors(net).items()}
    keep = found.run("scores", lambda: half_of(net, groups))
    if keep is None:
        return
    done = found.run("remove_channels", lambda: remove_channels(net, example_of(seed), groups, keep))
    same = all(torch.equal(before[name], tensor) for name, tensor in named_tensors(net).items())
    found.expect(same, "remove_channels", "the dense network was changed")
    if done is None:
        return
    _note("pruned", done, found)
    cut = {group.name for group in done.plan.groups if group.after < group.before}
    chosen = [(group, stays) for group, stays in zip(groups, keep, strict=True) if group.name in cut]
    truth = readers_ignore(net, chosen)
    _compare(truth, done.model, noise_of(seed), found, "pruned outputs")
    _check_file(seed, "pruned", network(seed), done, found, folder)
    if onnx:
        _check_onnx(seed, net, done, found, folder)


def _check_onnx(seed: int, net: nn.Module, done: Compressed, found: Findings, folder: Path) -> None:
    """ONNX Runtime must compute what the pruned network does, if the exporter takes the dense one at all."""
    x = noise_of(seed)[:1]
    try:
        error = onnx_rel_error(done.model, x, folder)
    except Exception as pruned:
        try:
            onnx_rel_error(net, x, folder)
        except Exception as dense:
            found.figures["not exportable"] = f"{type(dense).__name__}: {str(root_of(dense)).strip()[:200]}"
            return
        found.expect(False, "ONNX", f"the pruned network does not export: {str(root_of(pruned)).strip()[:300]}")
        return
    found.figures["ONNX"] = error if math.isfinite(error) else "infinity"
    found.expect(error <= ONNX_TOLERANCE, "ONNX", f"ONNX Runtime differs by {error:.1e}")


def root_of(error: BaseException) -> BaseException:
    """Return the first error in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def half_of(net: nn.Module, groups: Sequence[Group]) -> list[Tensor]:
    """Return which channels of each group stay: the half of higher magnitude."""
    return [*choose(groups, score_channels(net, groups, "l2"), Budget(keep=0.5), scope="layer")]


def _check_zeros(seed: int, groups: Sequence[Group], found: Findings, folder: Path) -> None:
    """Half of every group is killed in some way; what goes must not change anything, and what must go is known."""
    net = network(seed)
    killed = found.run("kill", lambda: kill_half_(net, groups, seed))
    if not killed:
        return
    done = found.run("remove_zeros", lambda: remove_zeros(net, example_of(seed)))
    if done is None:
        return
    _note("zeros", done, found)
    _compare(net, done.model, noise_of(seed), found, "outputs without zeros")
    _check_complete(net, groups, killed, done, found)
    fresh = network(seed)
    kill_half_(fresh, groups, seed)
    _check_file(seed, "zeros", fresh, done, found, folder)


def _check_complete(
    net: nn.Module, groups: Sequence[Group], killed: Sequence[Killed], done: Compressed, found: Findings
) -> None:
    """Nothing dead stays in silence: it goes but for one carrier a reader, or its group is named.

    In a chain it is known that all of it must go; what a reader ignores needs no carrier.
    """
    removed = {cut.name: cut.before - cut.after for cut in done.plan.groups}
    named = {refusal.group for refusal in done.certificate.refused}
    readers = {group.name: len(group.consumers) for group in groups}
    silent = []
    for one in killed:
        dead, gone = int(one.channels.sum()), removed.get(one.group, 0)
        spare = 0 if one.kind == "readers" or (isinstance(net, Chain) and one.kind == "beta") else readers[one.group]
        if isinstance(net, Chain):
            words = f"'{one.group}' ({one.kind}): {gone} of {dead} dead channels went"
            found.expect(gone >= dead - spare, "silent no-op", words)
        elif gone < dead - spare and one.group not in named:
            silent.append({"group": one.group, "kind": one.kind, "dead": dead, "gone": gone})
    found.figures["kept in silence"] = silent


def _check_file(seed: int, what: str, fresh: nn.Module, done: Compressed, found: Findings, folder: Path) -> None:
    """The file must give the same network again, and the plan alone, on a fresh dense one, the same outputs."""
    path = folder / "cut.safetensors"
    x = noise_of(seed)[:1]

    def through_file() -> nn.Module:
        Checkpoint(
            weights=done.model.state_dict(),
            architecture=Architecture(name=ARCHITECTURE, arguments={"seed": seed}),
            tasks=(),
            preprocessing=Preprocessing(height=16, width=16),
            edits=(json_safe(done.plan.model_dump(mode="json")),),
        ).save(path)
        return rebuild(Checkpoint.load(path), lambda: network(seed))

    def replayed() -> nn.Module:
        done.plan.apply_(fresh)
        if what == "zeros":  # the constants that were absorbed are in the weights, not in the plan
            fresh.load_state_dict(done.model.state_dict())
        return fresh

    for way, make in (("file", through_file), ("replay", replayed)):
        check = f"{what} {way}"
        again = found.run(check, make)
        if again is not None:
            equal = found.run(check, partial(_bit_equal, done.model, again, x))
            found.expect(equal is not False, check, "outputs differ")


def _bit_equal(one: nn.Module, two: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        a, b = named_outputs(call(one.eval(), x)), named_outputs(call(two.eval(), x))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def readers_ignore(net: nn.Module, chosen: Sequence[tuple[Group, Tensor]]) -> nn.Module:
    """Return a copy of ``net`` whose readers ignore the channels that go: what the removed network must compute.

    Independent of ``compress/masked.py``: nothing is done to the writers, and a LayerNorm becomes another module.
    """
    net = copy.deepcopy(net)
    modules, tensors = dict(net.named_modules()), named_tensors(net)
    kept: dict[str, Tensor] = {}
    for group, stays in chosen:
        for member in group.members:
            gone = member.local[~stays[member.channel]]
            module = modules[member.module]
            if member.kind == "parameter":
                tensors[member.parameter].detach().index_fill_(member.axis, gone, 0.0)
            elif member.side == "in":
                weight = module.weight
                assert isinstance(weight, Tensor)
                weight.detach().index_fill_(slice_axis(module, "in"), gone, 0.0)
            elif isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1):
                assert isinstance(module.weight, Tensor)
                kept.setdefault(member.module, torch.ones(len(module.weight), dtype=torch.bool))[gone] = False
    for name, mask in kept.items():
        owner, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(owner), leaf, _PartNorm(modules[name], mask))
    return net


class _PartNorm(nn.Module):
    """A LayerNorm, or a GroupNorm of one group, that sees only some channels and leaves zeros in the others."""

    def __init__(self, norm: nn.Module, kept: Tensor) -> None:
        super().__init__()
        assert isinstance(norm, nn.LayerNorm | nn.GroupNorm)
        self.kept, self.eps = kept, norm.eps
        self.weight, self.bias = (nn.Parameter(tensor.detach()[kept]) for tensor in (norm.weight, norm.bias))
        self.of_maps = isinstance(norm, nn.GroupNorm)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1) if self.of_maps else x
        over = tuple(range(1, x.ndim)) if self.of_maps else (-1,)
        part = x[..., self.kept]
        mean, var = part.mean(over, keepdim=True), part.var(over, unbiased=False, keepdim=True)
        out = torch.zeros_like(x)
        out[..., self.kept] = (part - mean) / (var + self.eps).sqrt() * self.weight + self.bias
        return out.movedim(-1, 1) if self.of_maps else out


def _compare(expected: nn.Module, got: nn.Module, x: Tensor, found: Findings, check: str) -> None:
    """Compare two networks in float64 on inputs of our own, one by one and together."""

    def error() -> float:
        reference, model = (copy.deepcopy(model).double().eval() for model in (expected, got))
        with torch.no_grad():
            with plain_attention():  # the fused path of a transformer layer would read past the reference's norms
                one = named_outputs(call(reference, x.double()))
            return largest_rel_error(one, named_outputs(call(model, x.double())))

    worst = found.run(check, error)
    if worst is not None:
        found.figures[check] = worst if math.isfinite(worst) else "infinity"
        found.expect(worst <= TOLERANCE, check, f"relative difference {worst:.1e}")


def _note(what: str, done: Compressed, found: Findings) -> None:
    certificate = done.certificate
    found.expect(bool(certificate), what, f"the certificate does not hold: {certificate.max_rel_error:.1e}")
    reasons = [refusal.reason for refusal in certificate.refused]
    found.figures[what] = {
        "channels": sum(group.before - group.after for group in done.plan.groups),
        "groups": sum(group.after < group.before for group in done.plan.groups),
        "retracted": [
            f"{refusal.group}: {refusal.reason}"
            for refusal in certificate.refused
            if refusal.reason.startswith("it changes an output")
        ],
        "not survived": sum(reason.startswith(("the network does not run", "output '")) for reason in reasons),
    }


def _name(block: nn.Module) -> str:
    how = getattr(block, "how", "")
    return f"{type(block).__name__}({how})" if isinstance(how, str) and how else type(block).__name__


def main(arguments: Sequence[str] | None = None) -> None:
    """Check COUNT networks from seed FIRST on and append a JSON line for each to FILE."""
    parser = argparse.ArgumentParser(prog="python -m slimtask.bench.fuzz_checks", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--onnx-every", type=int, default=1, help="export every n-th network, 0 for none")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in range(options.first, options.first + options.count):
        with tempfile.TemporaryDirectory() as folder:
            onnx = options.onnx_every > 0 and seed % options.onnx_every == 0
            row: Mapping[str, Any] = check_network(seed, Path(folder), onnx=onnx)
        with options.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
