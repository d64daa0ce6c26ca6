from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from slimtask.bench.report.gallery import scene
from slimtask.errors import InputError
from slimtask.export.pictures import palette
from slimtask.tasks import TaskSpec

IMAGE = np.zeros((4, 6, 3), dtype=np.uint8)
DEPTH = TaskSpec(name="depth", kind="depth", channels=1)
SEGMENTATION = TaskSpec(name="segmentation", kind="segmentation", channels=4)
PRESENCE = TaskSpec(name="presence", kind="multilabel", channels=3, classes=("chair", "table", "lamp"))


def test_cells_of_a_task_share_one_depth_range():
    near, far = np.full((4, 6), 1.0), np.full((4, 6), 5.0)
    near[0, 0] = far[0, 0] = 3.0
    strip = scene(IMAGE, [DEPTH], {"dense": {"depth": near}, "slim": {"depth": far}}).strips[0]
    assert strip.limits == (1.0, 5.0)
    assert strip.cells["dense"].getpixel((0, 0)) == strip.cells["slim"].getpixel((0, 0))
    assert strip.cells["dense"].getpixel((3, 3)) != strip.cells["slim"].getpixel((3, 3))


def test_legend_covers_all_columns():
    columns = {"truth": {"segmentation": np.zeros((4, 6), int)}, "dense": {"segmentation": np.full((4, 6), 3)}}
    strip = scene(Image.fromarray(IMAGE), [SEGMENTATION], columns).strips[0]
    assert {name for name, _ in strip.legend} == {"0", "3"}
    assert strip.cells["dense"].getpixel((0, 0)) == tuple(palette(4)[3].tolist())


def test_truth_of_labels_lists_what_is_there_and_predictions_their_probability():
    columns = {"truth": {"presence": np.array([1, 0, 1])}, "dense": {"presence": np.array([0.2, 0.7, 0.6])}}
    strip = scene(IMAGE, [PRESENCE, DEPTH], columns).strips
    assert len(strip) == 1
    assert strip[0].cells["truth"] == (("chair", 1.0), ("lamp", 1.0))
    assert [name for name, _ in strip[0].cells["dense"]] == ["table", "lamp", "chair"]


def test_truth_of_a_classification_may_be_its_number():
    room = TaskSpec(name="room", kind="classification", channels=2, classes=("kitchen", "office"))
    strip = scene(IMAGE, [room], {"truth": {"room": np.array(1)}, "void": {"room": np.array(-1)}}).strips[0]
    assert strip.cells == {"truth": (("office", 1.0),), "void": (("not labelled", 1.0),)}


def test_scenes_without_columns_and_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="at least one column"):
        scene(IMAGE, [DEPTH], {})
    with pytest.raises(InputError, match="presence"):
        scene(IMAGE, [PRESENCE], {"dense": {"presence": np.zeros(7)}})


def test_the_photograph_is_shown_as_it_is_read():
    grey = np.array([[0, 60, 255]], np.uint8)
    columns = {"dense": {"depth": np.ones((1, 3))}}
    for image in (np.stack([grey] * 3, axis=-1), Image.fromarray(grey.astype(np.uint16) * 257)):
        shown = scene(image, [DEPTH], columns).image
        assert (shown.mode, [shown.getpixel((x, 0)) for x in range(3)]) == ("RGB", [(0,) * 3, (60,) * 3, (255,) * 3])
    for image in (np.zeros((4, 6, 3)), grey, Image.fromarray(np.full((4, 6), 300.0, np.float32))):
        with pytest.raises(InputError, match=r"is not RGB|holds floating-point"):
            scene(image, [DEPTH], columns)
