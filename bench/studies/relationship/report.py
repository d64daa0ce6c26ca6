"""The tasks' relationship as compact JSON, as tables and as a picture."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimtask.bench.studies.harness import lines_of
from slimtask.files import write_text

_LISTS, _DICTS = re.compile(r"(\[)\s+([^\[\]{}]*?)\s+(\])"), re.compile(r"(\{)\s+([^{}]*?)\s+(\})")
_LINES = {"light": "#0172b2", "scene": "#c04b01"}


def compact(result: Mapping[str, Any]) -> str:
    """Return ``result`` as indented JSON, lists of plain values and innermost objects on one line each."""
    text = json.dumps(result, indent=1, allow_nan=False)
    for flat in (_LISTS, _DICTS):
        text = flat.sub(lambda found: found[1] + re.sub(r"\s*\n\s*", " ", found[2]) + found[3], text)
    return text + "\n"


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as Markdown."""
    machine = result["environment"]
    versions = machine.get("versions", {})
    named = [f"{name} {versions[name]}" for name in ("torch", "slimtask") if name in versions]
    where = ", ".join([machine.get("cpu", "unknown CPU"), *named])
    parts = [f"# How tasks relate before training\n\n`{result['command']}`; {where}.\n"]
    parts += [_fingerprint(result["fingerprint"]), _relate(result["relate"])]
    return "\n".join([*parts, "![IoU by layer, and how often the pair comes first](relationship.svg)\n"])


def _fingerprint(part: Mapping[str, Any]) -> str:
    lines = [
        "## The overlap of the tasks' masks against depth\n",
        f"`{part['recipe']}`, DiSparse's masks at initialisation; mean IoU over the pairs of tasks, mean over the "
        "seeds, projection shortcuts aside: least, mean and greatest of the layers of a stage.\n",
        lines_of(
            ["heads", "stage", "least", "mean", "greatest"],
            [
                [heads, stage["stage"], *(f"{stage[name]:.3f}" for name in ("min", "mean", "max"))]
                for heads, one in part["heads"].items()
                for stage in one["stages"]
            ],
        ),
    ]
    heads = ["heads", "falls from stage to stage", f"all of stage 1 above {part['above']}", "layers that fall"]
    heads += ["largest rise", "in total", "below one half for good from", "trunk's sparsity"]
    lines += ["", lines_of(heads, [[name, *_checks(one)] for name, one in part["heads"].items()])]
    named = [f"{name}: {', '.join(one['tasks'])}; {', '.join(one['settings'])}" for name, one in part["heads"].items()]
    return "\n".join([*lines, "", "One figure a seed. " + ". ".join(named) + ".", ""])


def _checks(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['stage_means_fall']} of {one['seeds']} seeds",
        f"{one['stage_1_above']} of {one['seeds']} seeds",
        ", ".join(str(count) for count in one["steps_that_fall"]) + f" of {one['steps']}",
        ", ".join(f"{rise:.3f}" for rise in one["largest_rise"]),
        ", ".join(f"{total:.3f}" for total in one["total"]),
        ", ".join(_short(name) if name else "no layer" for name in one["watershed"]),
        ", ".join(f"{share:.1%}" for share in one["trunk_sparsity"]),
    ]


def _relate(part: Mapping[str, Any]) -> str:
    first, second = part["pair"]
    columns = [f"{sparsity:.0%}" for sparsity in part["sparsities"]] + [_averaged(part)]
    lines = [
        f"## Is {first} - {second} closer than either to {part['other']}?\n",
        f"`{part['recipe']}`; of {part['seeds']} seeds, in how many it is, by sparsity; in brackets, in how many it is "
        "the closest of all pairs.\n",
        lines_of(["measure", "layer weighting", *columns], [_counts(row) for row in part["counts"]]),
        f"\n## The grouping of each seed\n\nEqual layer weights, {_averaged(part)}.\n",
    ]
    cells = []
    for metric, found in part["groupings"].items():
        for groups in dict.fromkeys(found):
            seeds = ", ".join(str(seed) for seed, other in enumerate(found) if other == groups)
            cells.append([_name(metric), groups.replace(" | ", " / "), seeds])
    return "\n".join([*lines, lines_of(["measure", "groups", "seeds"], cells), ""])


def _counts(row: Mapping[str, Any]) -> list[str]:
    counts = zip(row["closer"], row["closest"], strict=True)
    return [_name(row["similarity"]), row["weighting"], *(f"{closer} ({closest})" for closer, closest in counts)]


def _averaged(part: Mapping[str, Any]) -> str:
    return "mean of " + ", ".join(f"{sparsity:.0%}" for sparsity in part["averaged_over"])


def save_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the IoU by layer, and the counts as a table of colours, to the SVG ``path``, atomically."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": "relationship", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(8.5, 6.6), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(1.1, 1))
        _draw_layers(above, result["fingerprint"])
        _draw_counts(below, result["relate"])
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", drawn.getvalue())
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)
    write_text(path, re.sub(r"\n\s+", "\n", text))


def _draw_layers(axes: Any, part: Mapping[str, Any]) -> None:
    for number, (heads, one) in enumerate(part["heads"].items()):
        layers = [layer for layer in one["layers"] if "shortcut" not in layer["layer"]]
        means = [sum(layer["iou"]) / len(layer["iou"]) for layer in layers]
        colour = _LINES.get(heads, f"C{number}")
        axes.plot(range(len(layers)), means, color=colour, label=f"{heads} heads")
        low, high = ([pick(layer["iou"]) for layer in layers] for pick in (min, max))
        axes.fill_between(range(len(layers)), low, high, color=colour, alpha=0.2, linewidth=0)
    stages = [layer["stage"] for layer in layers]
    for place in range(1, len(stages)):
        if stages[place] != stages[place - 1]:
            axes.axvline(place - 0.5, color="#bbbbbb", linewidth=0.8)
    for stage in dict.fromkeys(stages):
        axes.text(stages.index(stage) - 0.4, 0.02 if stages.count(stage) > 1 else 0.1, stage, color="#606162")
    axes.axhline(part["above"], color="#808182", linestyle=(0, (4, 3)), linewidth=0.8)
    axes.set(ylim=(0, 1.02), xlim=(-0.6, len(stages) - 0.4), ylabel="IoU of the tasks' masks, mean over pairs")
    axes.set_xlabel("convolution of the trunk; the band is the range of the seeds")
    axes.set_title(", ".join(next(iter(part["heads"].values()))["tasks"]) + ": masks at initialisation", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left")


def _draw_counts(axes: Any, part: Mapping[str, Any]) -> None:
    metrics = list(dict.fromkeys(row["similarity"] for row in part["counts"]))
    weightings = list(dict.fromkeys(row["weighting"] for row in part["counts"]))
    width = len(part["sparsities"])
    cells = [[0] * (width * len(metrics)) for _ in weightings]
    for row in part["counts"]:
        start = width * metrics.index(row["similarity"])
        cells[weightings.index(row["weighting"])][start : start + width] = row["closer"][:width]
    axes.imshow(cells, cmap="Blues", vmin=0, vmax=1.4 * part["seeds"], aspect="auto", interpolation="nearest")
    for count in sorted({count for counts in cells for count in counts}):  # as markers: a tenth of the bytes of texts
        at = [(x, y) for y, counts in enumerate(cells) for x, one in enumerate(counts) if one == count]
        shade = "white" if count > 0.7 * part["seeds"] else "black"
        axes.plot(
            *zip(*at, strict=True), linestyle="none", marker=f"${count}$", markersize=6, color=shade, markeredgewidth=0
        )
    axes.set_xticks(range(width * len(metrics)), [f"{sparsity:.0%}" for sparsity in part["sparsities"]] * len(metrics))
    axes.set_yticks(range(len(weightings)), [weighting.replace("_", " ") for weighting in weightings])
    for place, metric in enumerate(metrics):
        axes.text(width * (place + 0.5) - 0.5, -0.75, _name(metric), ha="center")
        axes.axvline(width * place - 0.5, color="white", linewidth=3)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    first, second = part["pair"]
    axes.set_title(
        f"seeds of {part['seeds']} in which {first} - {second} is closer than either to {part['other']}",
        loc="left",
        pad=18,
    )


def _name(metric: str) -> str:
    return "IoU" if metric == "iou" else metric.upper()


def _short(name: str) -> str:
    return name.removeprefix("trunk.").removesuffix(".weight").replace("residual.", "")
