from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from slimtask.errors import InputError
from slimtask.export.pictures import (
    _reduced,
    class_name,
    colorize,
    depth_limits,
    legend,
    overview,
    palette,
    picture,
    write_picture,
)
from slimtask.tasks import TaskSpec

NAMES = ("wall", "floor", "cost $5 & <b>")
SEGMENTATION = TaskSpec(name="segmentation", kind="segmentation", channels=3, classes=NAMES)
DEPTH = TaskSpec(name="depth", kind="depth", channels=1)
NORMALS = TaskSpec(name="normals", kind="normals", channels=3)
EDGES = TaskSpec(name="edges", kind="edges", channels=1)
ROOM = TaskSpec(name="room", kind="classification", channels=2, classes=("kitchen", "office"))
PRESENCE = TaskSpec(name="presence", kind="multilabel", channels=3)
TASKS = (SEGMENTATION, DEPTH, NORMALS, EDGES, ROOM, PRESENCE)


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    normals = rng.standard_normal((3, 24, 32)).astype(np.float32)
    return {
        "segmentation": rng.integers(0, 3, (24, 32)),
        "depth": rng.uniform(1, 5, (24, 32)).astype(np.float32),
        "normals": normals / np.linalg.norm(normals, axis=0),
        "edges": rng.random((24, 32)).astype(np.float32),
        "room": np.array([0.3, 0.7], dtype=np.float32),
        "presence": np.array([0.9, 0.1, 0.6], dtype=np.float32),
    }


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    packed = np.asarray(image).reshape(-1, 3).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return {(value >> 16, value >> 8 & 255, value & 255) for value in np.unique(packed).tolist()}


def test_colours_are_distinct_and_stay_with_their_class():
    assert len({tuple(colour) for colour in palette(100).tolist()}) == 100
    np.testing.assert_array_equal(palette(100)[:7], palette(7))
    assert palette(4096).shape == (4096, 3)


def test_segmentation_is_coloured_by_class_and_void_is_grey():
    prediction = np.array([[0, 1], [2, 255]])
    found = colorize(SEGMENTATION, prediction)
    np.testing.assert_array_equal(found.reshape(-1, 3)[:3], palette(3))
    assert len(set(found[1, 1].tolist())) == 1


def test_legend_lists_present_classes_largest_first():
    entries = legend(SEGMENTATION, np.array([[1, 1], [2, 255]]))
    assert [name for name, _ in entries] == ["floor", "cost $5 & <b>", "not labelled"]
    assert entries[0][1] == tuple(palette(3)[1].tolist())
    unnamed = TaskSpec(name="parts", kind="segmentation", channels=12)
    assert class_name(unnamed, 11) == "11"


def test_depth_is_bright_near_dark_far_and_grey_without_a_value():
    depth = np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32)
    found = colorize(DEPTH, depth, limits=(1.0, 3.0)).astype(int)
    light = found.sum(axis=-1)
    assert light[0, 0] > light[0, 1] > light[1, 0]
    assert len(set(found[1, 1].tolist())) == 1
    # One common range: the same metre has the same colour in two pictures.
    np.testing.assert_array_equal(colorize(DEPTH, depth[:, ::-1], limits=(1.0, 3.0))[:, ::-1], found)


def test_depth_limits_ignore_what_is_not_a_depth():
    low, high = depth_limits(np.array([[0.0, np.nan, 2.0]]), np.array([[4.0, np.inf, -1.0]]))
    assert 2.0 <= low < high <= 4.0
    assert depth_limits(np.zeros((2, 2))) == (0.0, 1.0)


def test_normals_become_red_right_green_up_blue_towards_the_camera():
    axes = np.stack([np.eye(3), -np.eye(3)]).transpose(2, 0, 1)  # [component, sign, axis]
    found = colorize(NORMALS, axes)
    assert found[0].tolist() == [[255, 128, 128], [128, 255, 128], [128, 128, 255]]
    assert found[1].tolist() == [[0, 128, 128], [128, 0, 128], [128, 128, 0]]
    nothing = colorize(NORMALS, np.zeros((3, 1, 1)))
    assert len(set(nothing.ravel().tolist())) == 1


def test_edges_are_grey():
    found = colorize(EDGES, np.array([[[0.0, 0.5, 1.0]]], dtype=np.float32))
    assert found.tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_picture_of_a_segmentation_shows_the_legend_of_present_classes_only(predictions):
    only_floor = np.full((24, 32), 1)
    shown = colours(picture(SEGMENTATION, only_floor))
    wall, floor, _ = (tuple(colour) for colour in palette(3).tolist())
    assert floor in shown
    assert wall not in shown
    # The legend hangs below the map: taller than a kind without one.
    edges = picture(EDGES, predictions["edges"])
    assert picture(SEGMENTATION, predictions["segmentation"]).height > edges.height


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_kind_has_a_picture_that_survives_a_file(task, predictions, tmp_path):
    drawn = picture(task, predictions[task.name])
    write_picture(tmp_path / "p.png", drawn)
    with Image.open(tmp_path / "p.png") as stored:
        assert stored.format == "PNG"
        assert np.array_equal(np.asarray(stored), np.asarray(drawn))
    assert drawn.width > 300
    beside = picture(task, predictions[task.name], np.full((24, 32, 3), 200, dtype=np.uint8))
    assert beside.width > drawn.width


def test_overview_holds_image_and_every_prediction(predictions):
    image = np.full((24, 32, 3), (10, 200, 30), dtype=np.uint8)
    panel = overview(Image.fromarray(image), predictions, TASKS)
    shown = colours(panel)
    assert (10, 200, 30) in shown
    assert {tuple(colour) for colour in palette(3).tolist()} <= shown
    assert panel.width > overview(image, {"depth": predictions["depth"]}, TASKS).width


def test_a_photograph_of_any_mode_is_shown_as_it_is_read():
    grey = np.tile(np.array([[0, 60, 180]], np.uint8), (24, 1)).repeat(10, axis=1)
    prediction = {"depth": np.full((24, 30), 2.0)}
    of_8_bits = overview(np.stack([grey] * 3, axis=-1), prediction, TASKS)
    of_16_bits = overview(Image.fromarray(grey.astype(np.uint16) * 257), prediction, TASKS)
    np.testing.assert_array_equal(np.asarray(of_16_bits), np.asarray(of_8_bits))
    for strange in (np.zeros((24, 30, 3), np.float32), Image.fromarray(np.full((24, 30), 7e4, np.float32))):
        with pytest.raises(InputError, match=r"is not RGB|holds floating-point"):
            overview(strange, prediction, TASKS)


def test_a_large_photograph_is_drawn_small():
    halves = np.zeros((3000, 4000, 3), np.uint8)
    halves[:, 2000:] = (10, 200, 30)
    small = _reduced(halves)
    assert small.shape == (1536, 2048, 3)
    assert small[700, 1000].tolist() == [0, 0, 0]
    assert small[700, 1048].tolist() == [10, 200, 30]
    np.testing.assert_array_equal(_reduced(halves[:500, 1900:2100]), halves[:500, 1900:2100])


@pytest.mark.parametrize(
    ("task", "prediction", "reason"),
    [
        (SEGMENTATION, np.zeros((3, 4, 4), dtype=np.int64), r"\[3, 4, 4\].*\[height, width\]"),
        (SEGMENTATION, np.zeros((4, 4), dtype=np.float32), "class numbers"),
        (SEGMENTATION, np.full((4, 4), 7), "holds class 7"),
        (NORMALS, np.zeros((4, 4, 3), dtype=np.float32), r"\[3, height, width\]"),
        (ROOM, np.zeros(5, dtype=np.float32), r"\[channels\]"),
        (DEPTH, np.zeros((0, 4), dtype=np.float32), "depth"),
    ],
)
def test_undecoded_predictions_are_refused(task, prediction, reason):
    with pytest.raises(InputError, match=reason):
        picture(task, prediction)


def test_image_level_tasks_have_no_map():
    with pytest.raises(InputError, match="no map"):
        colorize(ROOM, np.array([0.3, 0.7]))


def test_importing_needs_neither_torch_nor_matplotlib():
    code = (
        "import sys; sys.modules['torch'] = None; import slimtask.export.pictures; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
