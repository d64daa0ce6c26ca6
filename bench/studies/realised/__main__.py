"""How much of a FLOP ratio becomes speed, torch-pruning against ours: ``python -m slimtask.bench.studies.realised``.

A network is trained briefly on real images, then both cut it by the same importance criterion to the same FLOPs:
torch-pruning a uniform share of every group, ours what ``compress --flops --align auto`` chooses. Both are exported the
same way and timed under ONNX Runtime on the CPU beside the dense network, interleaved in one process. Realised: the
speed-up divided by the FLOP ratio. Then both are tuned alike, and scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from slimtask.bench.layers.meter import OnnxRuntimeMeter
from slimtask.bench.studies.harness import command_of, facts, keep, known_rows, lines_of, parser_of, run_study, say
from slimtask.bench.studies.realised.images import LabelledImages, gain
from slimtask.bench.studies.realised.networks import (
    CRITERION,
    MODELS,
    Cut,
    cut_as_chosen,
    cut_by_torch_pruning,
    dense_network,
)
from slimtask.bench.timing.environment import environment
from slimtask.bench.timing.graphs import export, measure_graphs
from slimtask.bench.timing.measure import Measurement
from slimtask.compress.latency.choose import LatencyChooser
from slimtask.compress.latency.prepared import Prepared
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.score.importance import score_channels

LEVELS = (0.3, 0.5, 0.7, 0.9)
_ALL = "all"
SIDES = {"torch_pruning": "torch-pruning", "ours": "ours"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the networks are timed (``threads``, ``rounds``, ``table_seconds`` for the layers), trained and tuned."""

    threads: int
    rounds: int
    table_seconds: float | int
    training: int
    tuning: int
    size: int = 224


def compare(
    name: str, levels: Sequence[float], data: LabelledImages, settings: Settings, seed: int = 0
) -> list[dict[str, Any]]:
    """Return one JSON-ready row per level for one network, all candidates of all levels interleaved in one run."""
    model, example = dense_network(name, len(data.classes), settings.size, seed)
    say(f"{name}: training the dense network")
    data.fit(model, settings.training, seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"dense": export(model, example, Path(folder, "dense.onnx"))}
        before_ms = _measure(paths, settings)["dense"].minimum_ms
        say(f"{name}: dense {before_ms:.2f} ms; measuring layers")
        meter = OnnxRuntimeMeter(threads=settings.threads, table_seconds=settings.table_seconds)
        what = Prepared(model, example, meter)
        # The minimum, as in the table: both then describe the network without the machine's other work.
        dense_ms = min(before_ms, _measure(paths, settings)["dense"].minimum_ms)
        say(f"{name}: measuring what groups matter")
        modules = {spec.module for spec in what.specs}
        scores = score_channels(model, what.groups, CRITERION)
        judge = what.judge([data.calibration()])
        proposals = what.proposals(scores, {_ALL: dense_ms}, paths={_ALL: modules}, judge=judge)
        cuts: dict[str, Cut] = {}
        for level in levels:
            theirs = cut_by_torch_pruning(what, judge, level)
            say(f"{name} {level:.0%}: choosing channels within {theirs.flops / 1e9:.3f} GFLOPs")
            chosen = proposals(partial(LatencyChooser.for_flops, flops=theirs.flops))
            ours = cut_as_chosen(what, judge, chosen, theirs.flops)
            for key, one in ((f"torch_pruning {level}", theirs), (f"ours {level}", ours)):
                cuts[key], paths[key] = one, export(one.model, example, Path(folder, f"{key}.onnx"))
        say(f"{name}: timing {len(paths)} networks")
        measured = _measure(paths, settings)
    hits = {"dense": data.hits(model)}
    for key, one in cuts.items():
        say(f"{name}: tuning {key}")
        data.fit(one.model, settings.tuning, seed + 1, teacher=model)
        hits[key] = data.hits(one.model)
    dense = {"flops": count_flops(model, example), "parameters": count_parameters(model)}
    return [
        row(name, level, dense, {side: cuts[f"{side} {level}"] for side in SIDES}, measured, hits) for level in levels
    ]


def row(
    name: str,
    level: float,
    dense: Mapping[str, int],
    cuts: Mapping[str, Cut],
    measured: Mapping[str, Measurement],
    hits: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Return the comparison of one network at one level: both sides against the dense network of the same run.

    ``ahead``: ours has the higher realised speed and the higher speed-up, moves the outputs no more before tuning, and
    after it its accuracy is not behind: the 95 % interval of the difference, images paired, holds 0 or lies above.
    ``never_slower``: ours is at least as fast as the dense network.
    """
    base = measured["dense"]
    sides = {side: _side(made, measured[f"{side} {level}"], base, dense["flops"]) for side, made in cuts.items()}
    for side, found in sides.items():
        found["accuracy"] = float(hits[f"{side} {level}"].double().mean())
    theirs, ours = sides["torch_pruning"], sides["ours"]
    gained = gain(hits[f"ours {level}"], hits[f"torch_pruning {level}"])
    return {
        "model": name,
        "level": level,
        "dense": dict(dense) | {"accuracy": float(hits["dense"].double().mean()), "latency_ms": base.summary()},
        **sides,
        "accuracy_gain": gained,
        "ahead": ours["realised"] > theirs["realised"]
        and ours["speedup"] > theirs["speedup"]
        and ours["distance"] <= theirs["distance"]
        and gained["high"] >= 0,
        "never_slower": ours["speedup"] >= 1.0,
    }


def report(rows: Sequence[dict[str, Any]], command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON-ready result: the rows, the two verdicts over all of them, command, settings and machine."""
    return {
        "what": "speed-up divided by FLOP ratio of channel removal, ONNX Runtime on the CPU, float32, batch 1",
        "command": command,
        "settings": dict(settings),
        "ahead_everywhere": all(one["ahead"] for one in rows),
        "never_slower": all(one["never_slower"] for one in rows),
        "rows": list(rows),
        "environment": environment(),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a Markdown page: the table, what was compared, machine and versions."""
    heads = ["model", "level", "side", "FLOP ratio", "speed-up", "realised", "ms (minimum)", "parameters"]
    heads += ["weights kept", "distance", "accuracy tuned (dense)", "ahead"]
    lines = []
    for one in result["rows"]:
        for side, label in SIDES.items():
            mine, ms = one[side], one[side]["latency_ms"]
            verdict = ("yes" if one["ahead"] else "no") if side == "ours" else ""
            speedup = f"{mine['speedup']:.2f} [{mine['low']:.2f}, {mine['high']:.2f}]"
            cells = [one["model"], f"{one['level']:.0%}", label, f"{mine['flop_ratio']:.2f}", speedup]
            cells += [f"{mine['realised']:.2f}", f"{ms['median']:.3f} ({ms['minimum']:.3f})"]
            cells += [f"{mine['parameters']:,}", f"{mine['kept']:.1%}", f"{mine['distance']:.3f}"]
            lines.append([*cells, f"{mine['accuracy']:.1%} ({one['dense']['accuracy']:.1%})", verdict])
    return (
        f"# Realised speed\n\n`{result['command']}`\n\n{result['what']}. Ahead everywhere: "
        f"{result['ahead_everywhere']}; never slower than dense: {result['never_slower']}.\n\n"
        f"{lines_of(heads, lines)}\n\n"
        "Same importance criterion (group magnitude, p = 2) and at most the same FLOPs on both sides. Latency: median "
        "of interleaved rounds in one process, thread spinning off; speed-up with its 95 % bootstrap interval. "
        "Realised: speed-up divided by FLOP ratio. Weights kept: share of the squared weights. Distance: how far the "
        "outputs are from the dense ones, relative to their mean square, before tuning, on 64 training images. "
        "Accuracy: of the test images after the same tuning on both sides; ahead is who is faster, no farther, and not "
        "behind in accuracy by the paired 95 % interval. Training is at the images' size, timing at the network's.\n\n"
        f"{facts(result['environment'])}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the table, and with ``--json FILE`` write FILE and a Markdown page beside it."""
    parser = parser_of("realised", __doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="torchvision names, separated by commas")
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)), help="shares of channels, separated by commas")
    parser.add_argument("--images", type=Path, required=True, help="a ZIP with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--training", type=int, default=600, help="steps of training a dense network")
    parser.add_argument("--tuning", type=int, default=200, help="steps of tuning a cut one")
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=60, help="interleaved samples of every candidate")
    parser.add_argument("--table-seconds", type=float, default=60.0, help="time to measure one network's layers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    options = parser.parse_args(arguments)
    settings = Settings(
        threads=options.threads,
        rounds=options.rounds,
        table_seconds=options.table_seconds,
        training=options.training,
        tuning=options.tuning,
    )
    levels = [float(level) for level in options.levels.split(",")]
    command = command_of(parser, arguments)
    data = LabelledImages(options.images)
    rows = known_rows(options.json, settings=asdict(settings))
    for name in options.models.split(","):  # written after each, so that a stopped run goes on where it was
        if [one["level"] for one in rows if one["model"] == name] == levels:
            continue
        rows = [one for one in rows if one["model"] != name] + compare(name, levels, data, settings)
        keep(options.json, report(rows, command, asdict(settings)), markdown)
    print(markdown(report(rows, command, asdict(settings))))


def _measure(paths: Mapping[str, Path], settings: Settings) -> dict[str, Measurement]:
    return measure_graphs(paths, threads=settings.threads, rounds=settings.rounds, min_sample_ms=4.0)


def _side(made: Cut, measured: Measurement, dense: Measurement, dense_flops: int) -> dict[str, Any]:
    speedup, flop_ratio = dense.ratio(measured), dense_flops / made.flops
    return {
        "flops": made.flops,
        "flop_ratio": flop_ratio,
        "parameters": made.parameters,
        "kept": made.kept,
        "distance": made.distance,
        "speedup": speedup.value,
        "low": speedup.low,
        "high": speedup.high,
        "realised": speedup.value / flop_ratio,
        "speedup_of_minima": dense.minimum_ms / measured.minimum_ms,
        "latency_ms": measured.summary(),
    }


if __name__ == "__main__":
    run_study("realised", main)
