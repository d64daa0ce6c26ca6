from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.train.data import readers
from slimtask.train.data.transforms import Depth, LabelMap, Normals


def test_every_reader_gives_a_class_that_the_transforms_know(tmp_path):
    Image.fromarray(np.full((4, 6, 3), (255, 127, 127), np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "grey.png")
    np.save(tmp_path / "d.npy", np.full((4, 6), 2.5, np.float32))
    assert readers.image(tmp_path / "rgb.png")[:, 0, 0].tolist() == [255, 127, 127]
    normals = readers.normals(tmp_path / "rgb.png", ((0, -1), (1, 1), (2, 1)))
    assert isinstance(normals, Normals)
    assert normals[0].max() < -0.99
    mask = readers.mask(tmp_path / "grey.png")
    assert isinstance(mask, LabelMap)
    assert mask.tolist() == [[[0, 0, 1, 1]]]
    assert mask.dtype == torch.float32
    depth = readers.metres(tmp_path / "d.npy")
    assert isinstance(depth, Depth)
    assert depth.unique().tolist() == [2.5]
    assert isinstance(readers.classes(tmp_path / "grey.png", 129), LabelMap)
    with pytest.raises(InputError, match="classes beyond 99"):
        readers.classes(tmp_path / "grey.png", 100)
