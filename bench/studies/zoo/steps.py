"""One model of the zoo through one step, in a process of its own.

Run as ``python -m slimtask.bench.studies.zoo.steps STEP NAME DIR``. What is found is written to DIR/row.json after each
part, so that whatever a crash leaves undone is known by name.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.harness import parser_of
from slimtask.bench.studies.zoo.kill import WRITERS, kill_half_
from slimtask.bench.studies.zoo.memory import PeakMemory
from slimtask.bench.studies.zoo.models import ARCHITECTURE, dense, example_of, fresh, noise_like
from slimtask.bench.studies.zoo.onnx_check import export_any, largest_rel_error, run_onnx
from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.graph.analysis import analyse, find_groups
from slimtask.compress.graph.groups import Group
from slimtask.compress.network.inputs import Inputs, call, named_outputs, tensors_of
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.removal.fitting import fit
from slimtask.compress.removal.remove import THOROUGH, Compressed, remove_channels, remove_zeros
from slimtask.compress.removal.surgery import Cut, make_cut
from slimtask.compress.score.budget import Budget, choose
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.score.importance import score_channels
from slimtask.errors import CheckFailed, SlimtaskError
from slimtask.files import read_json, write_json
from slimtask.tasks import Preprocessing

ONNX_TOLERANCE = 1e-4


class Row:
    """A model's row, written to its file at every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = read_json(path, "row") if path.exists() else {}

    def set(self, **values: Any) -> None:
        """Add values and write the file."""
        self.values |= values
        write_json(self._path, self.values)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Return a context that is named, and timed, in the row; what it refuses, and how it fails, is the status."""
        started = time.perf_counter()
        self.set(part=name)
        try:
            yield
        except SlimtaskError as error:
            verdict = "fail" if isinstance(error, CheckFailed) else "refused"
            self.set(status=verdict, reason=f"{name}: {error}")
            raise SystemExit(0) from None
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            self.set(status="fail", reason=f"{name}: {type(error).__name__}: {first[:300]}")
            raise
        self.set(seconds_of={**self.values.get("seconds_of", {}), name: round(time.perf_counter() - started, 2)})


def prune(name: str, folder: Path) -> None:
    """Remove half of every group that may lose channels, certify it, and leave checkpoint, input and outputs."""
    row, model, example = _built(name, folder)
    warm_up()
    with row.part("analysis and removal"):
        groups, keep = _measured_removal(model, example, row)
    with row.part("certificate"):
        thorough = count_parameters(model) <= THOROUGH and tensors_of(example)[0].ndim == 4
        done = remove_channels(model, example, groups, keep, why="lowest half by l2", thorough=thorough)
        row.set(**_certified(done, model))
        if not done.plan:
            row.set(status="refused", reason="nothing could be removed: " + _reasons_text(row.values["reasons"]))
            return
    with row.part("FLOPs"):
        row.set(flops_ratio=round(count_flops(done.model, example) / count_flops(model, example), 4))
    with row.part("save"):
        _save(name, done, example, folder)


def _built(name: str, folder: Path) -> tuple[Row, nn.Module, Inputs]:
    """Return the row of a model, its dense network and an input."""
    row, example = Row(folder / "row.json"), example_of(name)
    with row.part("build"):
        model = dense(name)
        row.set(params_before=count_parameters(model))
    return row, model, example


def _measured_removal(model: nn.Module, example: Inputs, row: Row) -> tuple[tuple[Group, ...], list[Tensor]]:
    """Return the groups and which channels stay; time and memory of analysis and removal go into the row.

    Scoring and choosing are timed apart. Peak memory is that of either part above what the process held before it.
    """
    started = time.perf_counter()
    with PeakMemory() as first:
        analysis = analyse(model, example)
    groups = analysis.groups
    seconds = time.perf_counter() - started
    reasons = Counter(group.refused for group in groups if group.refused)
    row.set(
        groups_open=sum(group.refused is None for group in groups),
        groups_refused=reasons.total(),
        reasons={str(why): count for why, count in reasons.most_common()},
    )
    started = time.perf_counter()
    keep = choose(groups, score_channels(model, groups, "l2"), Budget(keep=0.5), scope="layer")
    scoring = time.perf_counter() - started
    started = time.perf_counter()
    with PeakMemory() as removal:
        cuts = [
            Cut(group=group, keep=stays, reasons={})
            for group, stays in zip(groups, keep, strict=True)
            if group.refused is None
        ]
        fitted = fit(analysis, cuts)
        smaller, _ = make_cut(model, fitted.good, fitted.sizes)
    seconds += time.perf_counter() - started
    row.set(
        seconds=round(seconds, 3),
        scoring_seconds=round(scoring, 3),
        peak_mb=round(max(first.peak_bytes, removal.peak_bytes) / 1e6, 1),
        params_after=count_parameters(smaller),
        lost=[{"group": cut.group.name, "reason": why} for cut, why in fitted.lost],
    )
    return groups, keep


def warm_up() -> None:
    """Load what a first removal loads, so that neither its seconds nor its memory are taken for the model's."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    analysis = analyse(net, torch.zeros(1, 3, 8, 8))
    cuts = [Cut(group=g, keep=torch.arange(4) < 2, reasons={}) for g in analysis.groups if g.refused is None]
    make_cut(net, fit(analysis, cuts).good)


def _certified(done: Compressed, model: nn.Module) -> dict[str, Any]:
    certificate = done.certificate
    return {
        "params_after": count_parameters(done.model),
        "params_ratio": round(count_parameters(done.model) / count_parameters(model), 4),
        "certificate_max_rel_error": certificate.max_rel_error,
        "certificate_inputs": certificate.inputs,
        "sizes": [list(size) for size in certificate.sizes],
        "retracted": [
            {"group": refusal.group, "reason": refusal.reason}
            for refusal in certificate.refused
            if refusal.reason.startswith("it changes an output")
        ],
    }


def _save(name: str, done: Compressed, example: Inputs, folder: Path) -> None:
    from safetensors.torch import save_file

    checkpoint = Checkpoint(
        weights=done.model.state_dict(),
        architecture=Architecture(name=ARCHITECTURE, arguments={"model": name}),
        tasks=(),
        preprocessing=Preprocessing(height=224, width=224),
        edits=(json_safe(done.plan.model_dump(mode="json")),),
        provenance={"certificate": json_safe(done.certificate.model_dump(mode="json"))},
    )
    checkpoint.save(folder / "pruned.safetensors")
    with torch.no_grad():
        outputs = named_outputs(call(done.model.eval(), noise_like(example, seed=7)))
    save_file({key: value.contiguous().clone() for key, value in outputs.items()}, folder / "outputs.safetensors")


def reload(name: str, folder: Path) -> None:
    """Load the checkpoint in this fresh process, compare bit for bit, export to ONNX and compare again."""
    from safetensors.torch import load_file

    row = Row(folder / "row.json")
    with row.part("reload"):
        checkpoint = Checkpoint.load(folder / "pruned.safetensors")
        by_factory = name.startswith("regnet")  # its __init__ computes with tensors, which a skeleton has not
        model = rebuild(checkpoint, (lambda: fresh(name)) if by_factory else None)
        del checkpoint
        inputs = noise_like(example_of(name), seed=7)
        expected = load_file(folder / "outputs.safetensors")
        with torch.no_grad():
            got = named_outputs(call(model, inputs))
        equal = expected.keys() == got.keys() and all(torch.equal(expected[key], got[key]) for key in expected)
        row.set(reloaded_bit_equal=equal, rebuilt_by="factory" if by_factory else "registered name")
        if not equal:
            raise CheckFailed(f"outputs differ by {_finite(largest_rel_error(expected, got))}")
    with row.part("ONNX"):
        path = _export(name, model, inputs, folder)
        del model
        outputs = dict(zip(got, map(torch.from_numpy, run_onnx(path, inputs)), strict=True))
        error = largest_rel_error(got, outputs)
        row.set(onnx_rel_error=_finite(error))
        if not error <= ONNX_TOLERANCE:
            raise CheckFailed(f"ONNX Runtime differs by {_finite(error)}")
    row.set(status="pass", reason="")


def _export(name: str, model: nn.Module, inputs: Inputs, folder: Path) -> Path:
    """Return the path of the exported network; where the exporter takes not even the dense one, that is refused."""
    try:
        return export_any(model, inputs, folder / "pruned.onnx")
    except Exception as error:
        try:
            export_any(fresh(name), inputs, folder / "dense.onnx")
        except Exception as same:
            first = (str(same).strip().splitlines() or [type(same).__name__])[0]
            raise SlimtaskError(f"the exporter does not take the dense network either ({first[:200]})") from error
        raise


def exact(name: str, folder: Path) -> None:
    """Kill a random half of every open group in one of three ways each, and remove exactly that."""
    row, model, example = _built(name, folder)
    with row.part("kill"):
        killed = kill_half_(model, find_groups(model, example), seed=1, kinds=WRITERS)
    with row.part("exact removal"):
        started = time.perf_counter()
        done = remove_zeros(model, example)
        row.set(seconds=round(time.perf_counter() - started, 2), **_certified(done, model))
    removed = {cut.name: cut.before - cut.after for cut in done.plan.groups}
    row.set(
        killed={
            kind: {
                "groups": sum(one.kind == kind for one in killed),
                "channels": sum(int(one.channels.sum()) for one in killed if one.kind == kind),
                "removed": sum(removed.get(one.group, 0) for one in killed if one.kind == kind),
            }
            for kind in WRITERS
        },
        channels_removed=sum(removed.values()),
        refused=[refusal.model_dump() for refusal in done.certificate.refused],
    )
    if not done.certificate or row.values["retracted"]:
        row.set(status="fail", reason="a removal that was called exact is not")
    elif sum(removed.values()) == 0:
        row.set(status="refused", reason="nothing could be removed")
    else:
        row.set(status="pass", reason="")


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "infinity"


def _reasons_text(reasons: dict[str, int]) -> str:
    return "; ".join(f"{count} groups: {why}" for why, count in reasons.items())


STEPS = {"prune": prune, "reload": reload, "exact": exact}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step of one model; what is found lies in DIR/row.json."""
    parser = parser_of("zoo.steps", __doc__)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    STEPS[options.step](options.name, options.folder)
    print(json.dumps(read_json(options.folder / "row.json", "row")))


if __name__ == "__main__":
    main()
