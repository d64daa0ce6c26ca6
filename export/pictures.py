"""Pictures of decoded predictions: what a person looks at after ``run`` and in the report.

Layouts of a decoded prediction, by task kind: segmentation integer [H, W]; depth [H, W] in the task's unit, metres as a
rule; normals [3, H, W], unit vectors, x right, y up, z towards the camera; edges and saliency probability [H, W];
keypoints [C, H, W]; classification and multilabel probabilities [C]. Matplotlib is imported when the first picture is
drawn; never torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from slimtask.errors import InputError
from slimtask.files import atomic_file
from slimtask.images import to_rgb
from slimtask.tasks import TaskSpec

_NOT_LABELLED = (96, 96, 96)
_SHOWN_BARS = 8
_LEGEND_ENTRIES = 18
_SHOWN_SIDE = 2048  # pixels of a photograph; its panel has some 620
_ACCENT, _MUTED = "#0072b2", "#b9c0c7"
# Okabe and Ito's colours for every kind of colour vision, without black; farther ones are found from these.
_FIRST_COLOURS = ("0072b2", "e69f00", "009e73", "cc79a7", "56b4e9", "d55e00", "f0e442")


@cache
def palette(count: int) -> np.ndarray:
    """Return ``count`` distinct colours, uint8 [count, 3]; a class keeps its colour whatever the count.

    After the first seven each colour is the one of a grid farthest, in OKLab, from all before it and from grey.
    """
    axis = np.array([16, 64, 112, 160, 208, 248])
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    # Neither nearly black nor nearly white: both vanish on a page.
    grid = grid[(_oklab(grid)[:, 0] > 0.38) & (_oklab(grid)[:, 0] < 0.92)]
    fixed = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _FIRST_COLOURS])
    taken = np.concatenate([fixed, [_NOT_LABELLED, (0, 0, 0), (255, 255, 255)]])
    lab = _oklab(grid)
    distance = np.linalg.norm(lab[:, None] - _oklab(taken)[None], axis=-1).min(axis=1)
    colours = list(fixed[:count])
    while len(colours) < min(count, len(grid)):
        best = int(distance.argmax())
        colours.append(grid[best])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=-1))
    repeats = -(-count // len(colours)) if colours else 1
    return np.tile(np.array(colours, dtype=np.uint8).reshape(-1, 3), (repeats, 1))[:count]


def class_name(task: TaskSpec, index: int) -> str:
    """Return the name of class ``index``, or its number for a task without class names."""
    return task.classes[index] if index < len(task.classes) else str(index)


def legend(task: TaskSpec, *predictions: np.ndarray) -> list[tuple[str, tuple[int, int, int]]]:
    """Return (class name, RGB) of every class present in the segmentations given, the largest area first."""
    values = np.concatenate([_checked(task, one).ravel() for one in predictions])
    present, areas = np.unique(values, return_counts=True)
    entries = []
    for index in present[np.argsort(-areas, kind="stable")].tolist():
        ignored = index == int(task.ignore)
        name = "not labelled" if ignored else class_name(task, index)
        colour = _NOT_LABELLED if ignored else palette(task.channels)[index]
        entries.append((name, (int(colour[0]), int(colour[1]), int(colour[2]))))
    return entries


def depth_limits(*depths: np.ndarray) -> tuple[float, float]:
    """Return the nearest and farthest depth in metres to show: 1st and 99th percentile of all valid pixels."""
    values = np.concatenate([np.asarray(one, dtype=np.float64).ravel() for one in depths])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return (0.0, 1.0)
    low, high = np.percentile(values, [1, 99])
    return float(low), float(max(high, low + 1e-3))


def colorize(task: TaskSpec, prediction: np.ndarray, *, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Return the bare map of a dense task as RGB uint8 [H, W, 3]; pixels without a value are dark grey.

    ``limits`` is the depth range in metres; give the same one to pictures that will be compared.

    Raises:
        InputError: if the prediction does not have the layout of its kind, or the task is an image-level one.
    """
    values = _checked(task, prediction)
    if task.kind == "segmentation":
        table = np.concatenate([palette(task.channels), np.array([_NOT_LABELLED], dtype=np.uint8)])
        return table[np.where(values == int(task.ignore), task.channels, values)]
    if task.kind == "depth":
        return _colour_depth(values, limits or depth_limits(values))
    if task.kind == "normals":
        # The zero vector means "no normal here"; everything else is x, y, z from -1..1 to red, green, blue.
        colours = np.clip((values + 1) / 2 * 255, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
        return np.where((np.abs(values).sum(axis=0) > 0)[..., None], colours, np.uint8(_NOT_LABELLED[0]))
    if task.kind in ("edges", "saliency", "keypoints"):
        single = values.max(axis=0) if task.kind == "keypoints" else values
        grey = np.where(single == task.ignore, _NOT_LABELLED[0] / 255, np.clip(single, 0, 1))
        return np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    raise InputError(f"task '{task.name}' predicts one vector per image and has no map; use picture() for its bars.")


def picture(
    task: TaskSpec,
    prediction: np.ndarray,
    image: np.ndarray | Image.Image | None = None,
    *,
    limits: tuple[float, float] | None = None,
) -> Image.Image:
    """Return a prediction as a picture with its legend, colour bar or bars; beside ``image`` if one is given.

    Args:
        task: what was predicted. prediction: decoded, see the module's description.
        image: RGB uint8 [H, W, 3] or a PIL image. limits: depth range in metres.
    """
    panels: list[tuple[TaskSpec | None, Any]] = [] if image is None else [(None, image)]
    return _render([*panels, (task, prediction)], limits=limits, columns=2)


def overview(
    image: np.ndarray | Image.Image, predictions: Mapping[str, np.ndarray], tasks: Sequence[TaskSpec]
) -> Image.Image:
    """Return one panel of the image and all its predictions (by task name), in the order of ``tasks``."""
    panels: list[tuple[TaskSpec | None, Any]] = [(None, image)]
    panels += [(task, predictions[task.name]) for task in tasks if task.name in predictions]
    return _render(panels, limits=None, columns=2 if len(panels) in (2, 4) else 3)


def write_picture(path: Path | str, picture: Image.Image) -> None:
    """Write a picture as PNG to ``path``, whole or not at all."""
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")


def _checked(task: TaskSpec, prediction: np.ndarray) -> np.ndarray:
    """Return the prediction with the layout of its kind, or refuse it with one sentence."""
    planes = {"normals": 3, "keypoints": task.channels}.get(task.kind)
    values = prediction
    if task.dense and planes is None and values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    wanted = "[channels]" if not task.dense else "[height, width]" if planes is None else f"[{planes}, height, width]"
    right = values.ndim == (1 if not task.dense else 2 if planes is None else 3)
    if right and (not task.dense or planes is not None):
        right = values.shape[0] == (planes or task.channels)
    if not right or values.size == 0:
        raise InputError(
            f"the prediction of {task.kind} task '{task.name}' has shape {list(prediction.shape)}; "
            f"decode it to {wanted} first."
        )
    if task.kind != "segmentation":
        return np.asarray(values, dtype=np.float32)
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"the segmentation of task '{task.name}' holds {values.dtype}; decode it to class numbers.")
    values = values.astype(np.int64)
    strange = values[((values < 0) | (values >= task.channels)) & (values != int(task.ignore))]
    if strange.size:
        raise InputError(f"task '{task.name}' has {task.channels} classes, the prediction holds class {strange[0]}.")
    return values


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Return OKLab coordinates of 8-bit sRGB colours [N, 3] (Ottosson 2020): distances as eyes see them."""
    srgb = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    to_lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    lab: np.ndarray = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return lab


def _colour_depth(depth: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return depth as viridis, near bright and far dark; no depth is grey."""
    from matplotlib import colormaps

    low, high = limits
    valid = np.isfinite(depth) & (depth > 0)
    scaled = np.clip((np.where(valid, depth, low) - low) / max(high - low, 1e-9), 0, 1)
    colours = (np.asarray(colormaps["viridis_r"](scaled))[..., :3] * 255).round().astype(np.uint8)
    return np.where(valid[..., None], colours, np.uint8(_NOT_LABELLED[0]))


def _render(
    panels: Sequence[tuple[TaskSpec | None, Any]], *, limits: tuple[float, float] | None, columns: int
) -> Image.Image:
    """Return all panels (None: the photograph) on one grid."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(task, _reduced(value) if task is None else value) for task, value in panels]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    sizes = [np.asarray(value).shape for task, value in panels if task is None or task.dense]
    height, width = next((s[:2] if s[-1] == 3 and len(s) == 3 else s[-2:] for s in sizes), (3, 4))
    tall = 5.2 * float(np.clip(height / width, 0.4, 1.8))
    if not any(task is None or task.dense for task, _ in panels):
        tall = 0.6 * min(_SHOWN_BARS, max(np.size(value) for _, value in panels))
    style: Any = {"font.size": 11, "font.family": "sans-serif", "text.parse_math": False}
    with rc_context(style):
        figure = Figure(figsize=(5.6 * columns, (tall + 0.9) * rows), dpi=110)
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.14)
        for place, (task, value) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            if task is None:
                axes.imshow(value)
                _bare(axes, "image")
            elif task.dense:
                _draw_map(axes, task, value, limits)
            else:
                _draw_bars(axes, task, value, slots=_SHOWN_BARS if len(panels) > 1 else 0)
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.12, facecolor="white")
    return Image.open(file, formats=("PNG",)).convert("RGB")  # the figure's own


def _reduced(photograph: np.ndarray | Image.Image) -> np.ndarray:
    """Return a photograph as uint8 RGB, no larger than can be seen: drawing 88 megapixels took 5 GB."""
    pixels = to_rgb(photograph)
    if max(pixels.shape[:2]) <= _SHOWN_SIDE:
        return pixels
    small = Image.fromarray(pixels)
    small.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    return np.array(small)


def _bare(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=12)
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_map(axes: Any, task: TaskSpec, prediction: np.ndarray, limits: tuple[float, float] | None) -> None:
    values = _checked(task, prediction)
    limits = limits or (depth_limits(values) if task.kind == "depth" else None)
    axes.imshow(colorize(task, values, limits=limits), interpolation="nearest")
    _bare(axes, f"{task.name} ({task.unit})" if task.kind == "depth" else task.name)
    if task.kind == "segmentation":
        _add_legend(axes, legend(task, values))
    elif task.kind == "normals":
        _add_legend(
            axes, [("right", (255, 128, 128)), ("up", (128, 255, 128)), ("towards the camera", (128, 128, 255))]
        )
    elif task.kind == "depth" and limits is not None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        colours = ScalarMappable(Normalize(*limits), cmap="viridis_r")
        bar = axes.figure.colorbar(colours, cax=axes.inset_axes((0.0, -0.075, 1.0, 0.035)), orientation="horizontal")
        bar.outline.set_visible(False)


def _add_legend(axes: Any, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    from matplotlib.patches import Patch

    shown = list(entries[:_LEGEND_ENTRIES])
    handles = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="#555555", label=name)
        for name, colour in shown
    ]
    if len(entries) > len(shown):
        handles.append(Patch(facecolor="none", edgecolor="none", label=f"and {len(entries) - len(shown)} more"))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.02),
        borderaxespad=0.0,
        borderpad=0.2,
        ncols=3 if max(len(name) for name, _ in shown) < 20 else 2,
        frameon=False,
        fontsize=10,
        handlelength=1.2,
        handleheight=1.1,
        columnspacing=1.4,
    )


def _draw_bars(axes: Any, task: TaskSpec, prediction: np.ndarray, *, slots: int) -> None:
    """Draw the likeliest classes as bars in at least ``slots`` rows; those that are the answer are blue."""
    values = _checked(task, prediction)
    order = np.argsort(-values, kind="stable")[:_SHOWN_BARS]
    chosen = values[order] >= 0.5 if task.kind == "multilabel" else np.arange(len(order)) == 0
    for row, index in enumerate(order.tolist()):
        share = float(np.clip(values[index], 0, 1))
        axes.barh(row, 1.0, color="#eef0f2", height=0.28)
        axes.barh(row, share, color=_ACCENT if chosen[row] else _MUTED, height=0.28)
        weight = "bold" if chosen[row] else "normal"
        axes.text(0, row - 0.22, class_name(task, index), fontsize=11, fontweight=weight, color="#222222")
        axes.text(
            1, row - 0.22, f"{100 * values[index]:.0f} %", fontsize=11, fontweight=weight, color="#222222", ha="right"
        )
    _bare(axes, task.name)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(slots, len(order)) - 0.5, -0.75)
    if task.kind == "multilabel":
        axes.axvline(0.5, color="#333333", linewidth=0.8, linestyle=(0, (4, 3)))
