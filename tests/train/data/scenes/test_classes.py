from __future__ import annotations

from slimtask.train.data.scenes.classes import CLASSES, FURNITURE, OBJECTS, PLACES, ROOMS, SIZES, TASKS


def test_tables_agree_with_each_other():
    assert len(CLASSES) == len(set(CLASSES)) >= 8
    assert tuple(name for name in CLASSES if name not in ("floor", "wall", "ceiling")) == OBJECTS
    assert len(FURNITURE) == len(ROOMS)
    for places in FURNITURE:
        assert len(places) == PLACES
        assert places[0][2] == 1.0  # the anchor
        for kind, _, probability in places:
            assert kind in SIZES
            assert 0.0 < probability <= 1.0
    assert all(low <= high for bounds in SIZES.values() for low, high in zip(*bounds, strict=True))


def test_tasks_name_their_classes():
    by_name = {task.name: task for task in TASKS}
    assert by_name["segmentation"].classes == CLASSES
    assert by_name["room"].classes == ROOMS
    assert by_name["objects"].classes == OBJECTS
    assert {task.kind for task in TASKS} >= {
        "segmentation",
        "depth",
        "normals",
        "edges",
        "classification",
        "multilabel",
    }
