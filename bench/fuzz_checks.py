"""What must hold of every fuzzed network, each checked against the user's own, untouched network.

Run as ``python -m slimtask.bench.fuzz_checks FIRST COUNT FILE`` it appends one JSON line per network to FILE. The
checks, by the name that a failure carries:

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

import argparse
import json
import math
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.fuzz_fates import outcomes
from slimtask.bench.fuzz_networks import ARCHITECTURE, PLAIN_FORMS, Chain, check_names, labels_of, network, side_of
from slimtask.bench.fuzz_snapshot import Fact, differences, disturb_, snapshot
from slimtask.bench.fuzz_stateful import Chance
from slimtask.bench.fuzz_truth import Difference, difference, ignore_removed_, plainly
from slimtask.bench.kill import Killed, kill_half_
from slimtask.bench.onnx_check import onnx_rel_error
from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.budget import Budget
from slimtask.compress.groups import Group, find_groups
from slimtask.compress.prune import prune
from slimtask.compress.rebuild import rebuild
from slimtask.compress.remove import Compressed, remove_zeros
from slimtask.errors import InputError, SlimtaskError
from slimtask.tasks import Preprocessing

ONNX_TOLERANCE = 1e-4


class Findings:
    """The failures of one network by check, what was refused and why, and figures about it."""

    def __init__(self, seed: int) -> None:
        self.failures: list[dict[str, str]] = []
        self.refusals: dict[str, str] = {}
        self.figures: dict[str, Any] = {"seed": seed}

    def expect(self, holds: bool, check: str, words: str) -> None:
        """Note a failure of ``check`` unless it holds."""
        if not holds:
            self.failures.append({"check": check, "error": words[:500]})

    def run(self, check: str, function: Callable[[], Any]) -> Any:
        """Return the function's answer; an exception is a failure of ``check``, and the answer None."""
        try:
            return function()
        except Exception as error:
            self.expect(False, check, in_words(error))
            return None

    def ask(self, what: str, function: Callable[[], Any]) -> Any:
        """Return what the code under test says; an InputError is a refusal, and the answer None."""
        try:
            return function()
        except InputError as error:
            self.refusals[what] = str(error)
        except SlimtaskError as error:
            self.expect(False, "check failed", f"{what}: {error}")
        except Exception as error:
            self.expect(False, "traceback", f"{what}: {in_words(error)}")
        return None


def in_words(error: Exception) -> str:
    """Return an exception with its place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} at {where}: {str(error).strip()[:300]}"


class User:
    """Makes the network of a seed as its user has it: in some mode, and maybe run before."""

    def __init__(self, seed: int, only: Sequence[str] = ()) -> None:
        self.seed, self.only = seed, only
        self.mode = ("eval", "eval", "train", "eval", "mixed")[seed % 5]
        self.ran = (None, "without gradients", None, "with gradients")[seed // 3 % 4]

    def network(self) -> nn.Module:
        """Return the network, the same at every call."""
        net = network(self.seed, self.only)
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(self.ran == "with gradients"):
            torch.manual_seed(self.seed)
            if self.ran is not None:
                net(noise_of(self.seed))
        if self.mode != "eval":
            net.train()
        for module in [*net.children()][:1] if self.mode == "mixed" else []:
            module.eval()
        return net

    def inputs(self) -> list[Tensor]:
        """Return inputs that nobody has seen: noise, a bright image, and noise of another size if it is taken."""
        noise, other = noise_of(self.seed), noise_of(self.seed, more=8)
        return [noise, noise[:1] + 3, *([other] if _runs(self.network().eval(), other) else [])]


def _runs(net: nn.Module, x: Tensor) -> bool:
    try:
        with plainly():
            net(x)
    except RuntimeError:
        return False
    return True


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
            _check_onnx(user, pruned, found, folder)
    if "ONNX" not in found.figures:
        found.figures["no ONNX"] = found.figures.get("no ONNX", "not asked for")
    seconds = round(time.perf_counter() - started, 2)
    status = "fail" if found.failures else "refused" if "prune" in found.refusals else "pass"
    row = {**found.figures, "refusals": found.refusals, "status": status, "failures": found.failures}
    return {**row, "seconds": seconds}


def example_of(seed: int) -> Tensor:
    """Return an input of network ``seed``, zeros or noise, [1, 3, side, side]."""
    return noise_of(seed)[:1] if seed % 3 == 0 else torch.zeros(1, 3, side_of(seed), side_of(seed))


def noise_of(seed: int, more: int = 0) -> Tensor:
    """Return inputs of network ``seed`` that no certificate has seen, [2, 3, side, side], or ``more`` pixels a side."""
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    return torch.randn(2, 3, side_of(seed) + more, side_of(seed) + more, generator=generator)


def _check_pruning(user: User, inputs: Sequence[Tensor], found: Findings, folder: Path) -> Compressed | None:
    """Half of every group goes; the truth is the dense network, made anew, without what the plan names."""
    net = user.network()
    before = snapshot(net)
    example = example_of(user.seed)
    done = found.ask("prune", lambda: prune(net, example, budget=Budget(keep=0.5), scope="layer"))
    assert done is None or isinstance(done, Compressed)
    _check_damage("prune", user.network, net, before, inputs, found)
    labels = labels_of(net)
    found.figures["constructs"] = outcomes(net, labels, done, found.refusals.get("prune"))
    if done is None:
        return None
    _note("pruned", done, found)
    truth = found.run("generator", lambda: ignore_removed_(user.network().eval(), done.plan))
    only_certified = [
        label for (label, place), (_, fate) in zip(labels, found.figures["constructs"], strict=True)
        if fate == "shrunk" and place and getattr(net.get_submodule(place), "over_channels", False)
    ]  # fmt: skip
    found.figures["certificate only"] = only_certified
    if truth is not None:
        _check_result("pruned outputs", truth, done, net, inputs, found, values=not only_certified)
    _check_file("pruned", user, done, found, folder)
    _check_memory(done.model, net, inputs[0], found)
    return done


def _check_damage(
    what: str, again: Callable[[], nn.Module], net: nn.Module, before: Mapping[str, Fact], inputs: Sequence[Tensor],
    found: Findings,
) -> None:  # fmt: skip
    """The user's network must be as it was, and compute what it did."""
    for words in differences(before, net)[:5]:
        found.expect(False, "damage", f"{what}: {words}")

    def same() -> Difference:
        with plainly():
            after = net.eval()(inputs[0])  # first, for another network may fill what a trace has spoiled
        fresh = again().eval()
        with plainly():
            return difference(fresh(inputs[0]), after)

    apart = found.run("damage", same)
    if apart is not None:
        found.expect(not apart, "damage", f"{what}: the user's network computes something else: {apart}")


def _check_result(
    check: str, truth: nn.Module, done: Compressed, net: nn.Module, inputs: Sequence[Tensor], found: Findings,
    *, values: bool = True,
) -> None:  # fmt: skip
    """The result must give the same kinds of outputs, and in float64 the same values, on every input and way."""
    ways = [(x, {}, check if index != 1 else "other path") for index, x in enumerate(inputs)]
    if getattr(net, "extra", None) is not None:
        ways.append((inputs[0], {"aux": True}, "other path"))
    worst = 0.0
    smaller = _Kept(done.model)
    for wide in (False, True):
        for x, keywords, way in ways if wide else ways[:1]:
            try:
                expected = _outputs(truth, x, keywords, wide=wide)
            except RuntimeError:
                break  # its code insists on float32
            try:
                got = _outputs(done.model, x, keywords, wide=wide)
            except Exception as error:
                found.expect(way == "other path" and _named(done, ("more", "extra")), way, in_words(error))
                continue
            apart = difference(expected, got)
            if not (values and wide):
                apart = Difference(words=[words for words in apart.words if "torch." in words and values])
            worst = max(worst, apart.worst)
            found.expect(not apart, way if apart else check, str(apart))
    smaller.back_()
    found.figures[check] = worst if math.isfinite(worst) else "infinity"


class _Kept:
    """The state of a network, to put back whatever a call of it keeps."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model.eval()
        self._state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def back_(self) -> None:
        self._model.float()
        self._model.load_state_dict(self._state)


def _outputs(net: nn.Module, x: Tensor, keywords: Mapping[str, Any], *, wide: bool) -> Any:
    with plainly():
        return (net.double() if wide else net)(x.double() if wide else x, **keywords)


def _named(done: Compressed, names: Sequence[str]) -> bool:
    """Return whether the certificate or the plan speaks of a module of one of these names."""
    words = [f"{refusal.group} {refusal.reason}" for refusal in done.certificate.refused]
    spoken = " ".join([*words, str(done.plan), str(getattr(done.certificate, "notes", ""))])
    return any(name in spoken for name in names)


def _check_memory(model: nn.Module, net: nn.Module, x: Tensor, found: Findings) -> None:
    """The result must not move when every tensor of the user's network does, which is of no use afterwards."""
    state = _Kept(model)

    def apart() -> Difference:
        with plainly():
            model(x)
            state.back_()
            before = model(x)
            disturb_(net)
            state.back_()
            return difference(before, model(x))

    moved = found.run("shares memory", apart)
    if moved is not None:
        found.expect(not moved, "shares memory", str(moved))
    state.back_()


def _check_onnx(user: User, done: Compressed, found: Findings, folder: Path) -> None:
    """ONNX Runtime must compute what the pruned network does, if the exporter takes the dense one at all."""
    net, x = user.network().eval(), noise_of(user.seed)[:1]
    if getattr(net, "form", "tensor") not in PLAIN_FORMS or any(isinstance(m, Chance) for m in net.modules()):
        found.figures["no ONNX"] = "outputs or chance that a graph does not have"
        return
    try:
        error = onnx_rel_error(done.model, x, folder)
    except Exception as pruned:
        try:
            onnx_rel_error(net, x, folder)
        except Exception as dense:
            found.figures["no ONNX"] = f"{type(dense).__name__}: {str(root_of(dense)).strip()[:200]}"
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


def _check_zeros(
    user: User, inputs: Sequence[Tensor], groups: Sequence[Group], found: Findings, folder: Path
) -> None:
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
    _check_damage("remove_zeros", dead, net, before, inputs, found)
    if done is None:
        return
    _note("zeros", done, found)
    _check_result("outputs without zeros", dead().eval(), done, net, inputs, found)
    _check_complete(net, groups, killed, done, found)
    _check_file("zeros", user, done, found, folder)
    _check_memory(done.model, net, inputs[0], found)


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


def _check_file(what: str, user: User, done: Compressed, found: Findings, folder: Path) -> None:
    """The file must give the same network again, and so must the plan alone on a fresh dense one."""
    path, x, state = folder / "cut.safetensors", noise_of(user.seed)[:1], _Kept(done.model)
    weights = {name: tensor.clone() for name, tensor in done.model.state_dict().items()}

    def through_file() -> nn.Module:
        Checkpoint(
            weights=weights,
            architecture=Architecture(name=ARCHITECTURE, arguments={"seed": user.seed}),
            tasks=(),
            preprocessing=Preprocessing(height=16, width=16),
            edits=(json_safe(done.plan.model_dump(mode="json")),),
        ).save(path)
        return rebuild(Checkpoint.load(path), lambda: user.network().eval())

    def replayed() -> nn.Module:
        fresh = user.network().eval()
        done.plan.apply_(fresh)
        if what == "zeros":  # the constants that were absorbed are in the weights, not in the plan
            fresh.load_state_dict(weights)
        return fresh

    def apart(make: Callable[[], nn.Module]) -> Difference:
        again = make().eval()
        state.back_()
        with plainly():
            return difference(done.model(x), again(x))

    for way, make in (("file", through_file), ("replay", replayed)):
        moved = found.run(f"{what} {way}", lambda make=make: apart(make))  # type: ignore[misc]
        if moved is not None:
            found.expect(moved.worst == 0 and not moved.words, f"{what} {way}", f"outputs differ: {moved}")
    state.back_()


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
    parser = argparse.ArgumentParser(prog="python -m slimtask.bench.fuzz_checks", description=__doc__)
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
