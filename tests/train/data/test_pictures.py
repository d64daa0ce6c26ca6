from __future__ import annotations

import numpy as np
from PIL import Image

from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.pictures import write_images
from slimtask.train.data.scenes import render


def test_written_pictures_are_the_rendered_ones(tmp_path):
    dataset = open_dataset(DataConfig(height=24, width=32, val=5), "val")
    paths = write_images(dataset, [0, 3], tmp_path / "out")
    assert [path.name for path in paths] == ["00000.png", "00003.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.png", "00003.png"]
    expected = render([0, 3], height=24, width=32, split="val")["image"]
    for path, picture in zip(paths, expected, strict=True):
        assert np.array_equal(np.array(Image.open(path)), picture.permute(1, 2, 0).numpy())
