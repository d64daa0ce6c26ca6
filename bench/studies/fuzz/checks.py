"""What must hold of every fuzzed network, each checked against the user's own, untouched network.

Run as ``python -m slimtask.bench.studies.fuzz.checks FIRST COUNT FILE`` it appends one JSON line per network to FILE.
The checks, by the name that a failure carries:

- ``traceback``: an exception that is no SlimtaskError; ``check failed``: one that says a check does not hold.
- ``damage``: the user's network is not as it was, or does not compute what it did.
- ``pruned outputs``: the pruned network against the same network, made anew, without what the plan removes; where a
  statistic runs over removed channels there is only the certificate, and the row says so (``certificate only``).
- ``outputs without zeros``: exact removal against the network as the user has it.
- ``other path``: the network on a way that the example does not take, unless the certificate names it.
- ``shares memory``: the result moves when the user's tensors do.
- ``file``, ``replay``, ``ONNX``: the same network again. ``silent no-op``: in a plain chain all dead channels must go.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.fuzz.fates import outcomes
from slimtask.bench.studies.fuzz.networks import Chain, check_names, labels_of, network
from slimtask.bench.studies.fuzz.results import (
    check_apart,
    check_damage,
    check_file,
    check_memory,
    check_onnx,
    check_result,
)
from slimtask.bench.studies.fuzz.snapshot import snapshot
from slimtask.bench.studies.fuzz.truth import ignore_removed_
from slimtask.bench.studies.fuzz.user import Findings, User, example_of
from slimtask.bench.studies.harness import parser_of
from slimtask.bench.studies.zoo.kill import Killed, kill_half_
from slimtask.compress.graph.analysis import find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.pruning import prune
from slimtask.compress.removal.remove import Compressed, remove_zeros
from slimtask.compress.score.budget import Budget


def check_network(seed: int, folder: Path, *, onnx: bool = True, only: Sequence[str] = ()) -> dict[str, Any]:
    """Return the row of network ``seed``: its parts, what was removed, refusals, every failure, seconds."""
    started = time.perf_counter()
    found, user = Findings(seed), User(seed, only)
    net = network(seed, only)
    found.figures |= {"parts": [label for label, _ in labels_of(net)], "mode": user.mode, "ran": user.ran or "never"}
    inputs = found.run("generator", user.inputs)
    if inputs is not None:
        pruned = _check_pruning(user, inputs, found, folder)
        groups = found.ask("find_groups", lambda: find_groups(network(seed, only), example_of(seed)))
        _check_zeros(user, inputs, groups or (), found, folder)
        if onnx and pruned is not None:
            check_onnx(user, pruned, found, folder)
    if "ONNX" not in found.figures:
        found.figures["no ONNX"] = found.figures.get("no ONNX", "not asked for")
    seconds = round(time.perf_counter() - started, 2)
    status = "fail" if found.failures else "refused" if "prune" in found.refusals else "pass"
    row = {**found.figures, "refusals": found.refusals, "status": status, "failures": found.failures}
    return {**row, "seconds": seconds}


def _check_pruning(user: User, inputs: Sequence[Tensor], found: Findings, folder: Path) -> Compressed | None:
    """Half of every group goes; the truth is the dense network, made anew, without what the plan names."""
    net = user.network()
    before = snapshot(net)
    example = example_of(user.seed)
    done = found.ask("prune", lambda: prune(net, example, budget=Budget(keep=0.5), scope="layer"))
    assert done is None or isinstance(done, Compressed)
    check_damage("prune", user.network, net, before, inputs, found)
    labels = labels_of(net)
    found.figures["constructs"] = outcomes(net, labels, done, found.refusals.get("prune"))
    if done is None:
        return None
    check_apart(done.model, net, found)
    _note("pruned", done, found)
    truth = found.run("generator", lambda: ignore_removed_(user.network().eval(), done.plan))
    only_certified = [
        label for (label, place), (_, fate) in zip(labels, found.figures["constructs"], strict=True)
        if fate == "shrunk" and place and getattr(net.get_submodule(place), "over_channels", False)
    ]  # fmt: skip
    found.figures["certificate only"] = only_certified
    if truth is not None:
        check_result("pruned outputs", truth, done, net, inputs, found, values=not only_certified)
    check_file("pruned", user, done, found, folder)
    check_memory(done.model, net, inputs[0], found)
    return done


def _check_zeros(user: User, inputs: Sequence[Tensor], groups: Sequence[Group], found: Findings, folder: Path) -> None:
    """Half of every group is killed in some way; the truth is the very network that the user has."""
    killed: list[Killed] = []

    def dead() -> nn.Module:
        net = user.network()
        killed[:] = kill_half_(net, groups, user.seed)
        return net if killed else kill_rows_(net, user.seed)

    net = found.run("kill", dead)
    if net is None:
        return
    before = snapshot(net)
    done = found.ask("remove_zeros", lambda: remove_zeros(net, example_of(user.seed)))
    check_damage("remove_zeros", dead, net, before, inputs, found)
    if done is None:
        return
    check_apart(done.model, net, found)
    _note("zeros", done, found)
    check_result("outputs without zeros", dead().eval(), done, net, inputs, found)
    _check_complete(net, groups, killed, done, found)
    check_file("zeros", user, done, found, folder)
    check_memory(done.model, net, inputs[0], found)


@torch.no_grad()
def kill_rows_(net: nn.Module, seed: int) -> nn.Module:
    """Return ``net`` with half of the filters of every convolution and linear layer zeroed, in place."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and len(module.weight) > 7:
            rows = torch.randperm(len(module.weight), generator=generator)[::2]
            for tensor in (module.weight, module.bias):
                if tensor is not None and tensor.is_leaf:
                    tensor[rows] = 0.0
    return net


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Check COUNT networks from seed FIRST on and append a JSON line for each to FILE."""
    parser = parser_of("fuzz.checks", __doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--onnx-every", type=int, default=1, help="export every n-th network, 0 for none")
    parser.add_argument("--constructs", nargs="*", default=[], help="draw only from these")
    options = parser.parse_args(arguments)
    check_names(options.constructs)
    torch.set_num_threads(1)
    for seed in range(options.first, options.first + options.count):
        with tempfile.TemporaryDirectory() as folder:
            onnx = options.onnx_every > 0 and seed % options.onnx_every == 0
            row: Mapping[str, Any] = check_network(seed, Path(folder), onnx=onnx, only=options.constructs)
        with options.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
