"""What must hold of the user's network and of the smaller one once something was removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimtask.bench.studies.fuzz.networks import ARCHITECTURE
from slimtask.bench.studies.fuzz.outputs import PLAIN_FORMS
from slimtask.bench.studies.fuzz.snapshot import Fact, differences, disturb_, tensors_in
from slimtask.bench.studies.fuzz.stateful import Chance
from slimtask.bench.studies.fuzz.truth import Difference, difference, kinds, plainly
from slimtask.bench.studies.fuzz.user import Findings, User, in_words, noise_of
from slimtask.bench.studies.zoo.onnx_check import onnx_rel_error
from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.removal.remove import Compressed
from slimtask.tasks import Preprocessing

ONNX_TOLERANCE = 1e-4
Call = tuple[Tensor, dict[str, Any], str]


def check_damage(
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


def check_result(
    check: str, truth: nn.Module, done: Compressed, net: nn.Module, inputs: Sequence[Tensor], found: Findings,
    *, values: bool = True,
) -> None:  # fmt: skip
    """The result must give the same kinds of outputs, and in float64 the same values, on every input and way."""
    ways: list[Call] = [(x, {}, check if index != 1 else "other path") for index, x in enumerate(inputs)]
    if getattr(net, "aux_head", None) is not None:
        ways.append((inputs[0], {"aux": True}, "other path"))
    worst, smaller = 0.0, _Kept(done.model)
    for wide in (False, True):
        for x, keywords, way in ways if wide else ways[:1]:
            expected = found.run("generator", partial(_outputs, truth, x, keywords, wide=wide))
            try:
                got = _outputs(done.model, x, keywords, wide=wide)
            except Exception as error:
                found.expect(way == "other path" and _named(done, ("second_stage", "aux_head")), way, in_words(error))
                continue
            if not (values and wide):
                same = kinds(expected) == kinds(got)
                found.expect(same or not values, way, f"outputs are {kinds(got)} instead of {kinds(expected)}")
                continue
            apart = difference(expected, got)
            worst = max(worst, apart.worst)
            found.expect(not apart, way, str(apart))
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


def check_apart(model: nn.Module, net: nn.Module, found: Findings) -> None:
    """No tensor of the result may lie in memory of the user's, wherever either keeps it."""
    theirs = {tensor.untyped_storage()._cdata for tensor in tensors_in(net)}
    both = sum(tensor.untyped_storage()._cdata in theirs for tensor in tensors_in(model))
    found.expect(not both, "shares memory", f"{both} tensors of the result are the user's own")


def check_memory(model: nn.Module, net: nn.Module, x: Tensor, found: Findings) -> None:
    """The result must not move when every tensor of the user's network does, which is of no use afterwards."""
    state = _Kept(model)

    def apart() -> Difference:
        with plainly():
            model(x)  # now whatever it keeps is settled
            before = model(x)
            disturb_(net)
            return difference(before, model(x))

    moved = found.run("shares memory", apart)
    if moved is not None:
        found.expect(not moved, "shares memory", str(moved))
    state.back_()


def check_file(what: str, user: User, done: Compressed, found: Findings, folder: Path) -> None:
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


def check_onnx(user: User, done: Compressed, found: Findings, folder: Path) -> None:
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
