"""The classes and room types of the generated scenes, and which furniture stands in which room."""

from __future__ import annotations

from slimtask.tasks import TaskSpec

CLASSES = (
    *("floor", "wall", "ceiling", "rug", "window", "picture"),
    *("table", "chair", "sofa", "bed", "cabinet", "lamp", "plant"),
)
FLOOR, WALL, CEILING, RUG, WINDOW, PICTURE, TABLE, CHAIR, SOFA, BED, CABINET, LAMP, PLANT = range(len(CLASSES))
# Floor, walls and ceiling are in nearly every picture; naming them would be no task.
OBJECTS = CLASSES[RUG:]
ROOMS = ("living_room", "bedroom", "dining_room", "office")

# How a piece of furniture finds its place.
AT_WALL, FREE, CORNER, AROUND_ANCHOR, BEFORE_ANCHOR, CENTRE = range(6)

# Per room type, ten places: (class, placement, probability of being there). The first is the anchor: always there, and
# what the camera looks at. Only the anchor, the number of chairs and the number of cabinets tell the type of the room.
_COMMON = ((LAMP, CORNER, 0.5), (PLANT, CORNER, 0.5), (PLANT, FREE, 0.35), (LAMP, FREE, 0.4))
FURNITURE = (
    (
        *((SOFA, AT_WALL, 1.0), (TABLE, BEFORE_ANCHOR, 0.65), (CHAIR, FREE, 0.5), (CABINET, AT_WALL, 0.65)),
        *((CABINET, AT_WALL, 0.3), (SOFA, AT_WALL, 0.3), *_COMMON),
    ),
    (
        *((BED, AT_WALL, 1.0), (TABLE, AT_WALL, 0.5), (CHAIR, FREE, 0.5), (CABINET, AT_WALL, 0.65)),
        *((CABINET, AT_WALL, 0.3), (CHAIR, FREE, 0.15), *_COMMON),
    ),
    (
        *((TABLE, CENTRE, 1.0), (CHAIR, AROUND_ANCHOR, 1.0), (CHAIR, AROUND_ANCHOR, 1.0), (CHAIR, AROUND_ANCHOR, 1.0)),
        *((CHAIR, AROUND_ANCHOR, 0.6), (CABINET, AT_WALL, 0.5), *_COMMON),
    ),
    (
        *((TABLE, AT_WALL, 1.0), (CHAIR, AROUND_ANCHOR, 0.9), (CABINET, AT_WALL, 1.0), (CABINET, AT_WALL, 1.0)),
        *((CABINET, AT_WALL, 0.6), (TABLE, AT_WALL, 0.25), *_COMMON),
    ),
)
PLACES = len(FURNITURE[0])

# Per class: smallest and largest width, height and depth in metres.
SIZES = {
    TABLE: ((0.9, 0.68, 0.7), (1.7, 0.8, 1.0)),
    CHAIR: ((0.4, 0.8, 0.42), (0.55, 1.05, 0.55)),
    SOFA: ((1.4, 0.7, 0.8), (2.2, 0.95, 1.0)),
    BED: ((1.0, 0.75, 1.9), (1.7, 1.2, 2.1)),
    CABINET: ((0.5, 0.7, 0.35), (1.3, 2.0, 0.6)),
    LAMP: ((0.35, 1.2, 0.35), (0.6, 1.75, 0.6)),
    PLANT: ((0.35, 0.6, 0.35), (0.7, 1.5, 0.7)),
}
PRESENCE = 0.01  # an object class counts as present when it covers more than this share of the pixels

TASKS = tuple(
    TaskSpec.model_validate({"name": name, "kind": kind, "channels": channels, "classes": classes})
    for name, kind, channels, classes in (
        ("segmentation", "segmentation", len(CLASSES), CLASSES),
        ("depth", "depth", 1, ()),
        ("normals", "normals", 3, ()),
        ("edges", "edges", 1, ()),
        ("room", "classification", len(ROOMS), ROOMS),
        ("objects", "multilabel", len(OBJECTS), OBJECTS),
    )
)
