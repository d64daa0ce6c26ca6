from __future__ import annotations

import numpy as np
import pytest
import torch

from slimtask.errors import InputError
from slimtask.train.data.vectors import decode_normals, read_normals_array, unit_normals


def test_pixels_decode_to_unit_vectors_in_the_axes_asked_for():
    pixels = torch.tensor([[255, 127, 127], [127, 0, 127], [127, 127, 255]], dtype=torch.uint8).T.reshape(3, 1, 3)
    plain = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]]).T.reshape(3, 1, 3)
    torch.testing.assert_close(decode_normals(pixels), plain, atol=0.006, rtol=0)
    turned = decode_normals(pixels, ((0, 1), (2, 1), (1, -1)))
    torch.testing.assert_close(turned, torch.stack([plain[0], plain[2], -plain[1]]), atol=0.006, rtol=0)
    assert (decode_normals(pixels).norm(dim=0) - 1).abs().max() < 1e-6


def test_white_grey_and_short_are_unknown():
    pixels = torch.tensor([[255, 255, 255], [127, 127, 127], [150, 128, 128]], dtype=torch.uint8).T.reshape(3, 1, 3)
    assert not decode_normals(pixels).any()


def test_vectors_that_are_not_finite_are_unknown():
    vectors = torch.tensor([[float("nan"), 0.0, 2.0], [0.0, float("inf"), 0.0], [0.0, 0.0, 0.0]])[:, None]
    assert unit_normals(vectors)[:, 0].T.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_arrays_are_channels_last_floats(tmp_path):
    array = np.zeros((2, 3, 3))
    array[0, 1] = (0, 0, 2.0)
    np.save(tmp_path / "n.npy", array)
    normals = read_normals_array(tmp_path / "n.npy")
    assert normals.dtype == torch.float32
    assert normals[:, 0, 1].tolist() == [0, 0, 1]
    assert int((normals != 0).sum()) == 1
    np.save(tmp_path / "first.npy", np.zeros((3, 4, 4)))
    np.save(tmp_path / "ints.npy", np.zeros((4, 4, 3), np.uint8))
    for name in ("first", "ints"):
        with pytest.raises(InputError, match=rf"{name}\.npy' is not a float array"):
            read_normals_array(tmp_path / f"{name}.npy")
