from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from slimtask.train.data.boundaries import boundaries, thin


def _guo_hall(mask):
    """The two sub-iterations of Guo and Hall (1989), algorithm A1, pixel by pixel in plain Python."""
    mask = np.pad(mask.astype(int), 1)
    while True:
        before = mask.copy()
        for second in (False, True):
            doomed = []
            for y, x in np.argwhere(mask[1:-1, 1:-1]) + 1:
                north, north_east, east, south_east = (
                    mask[y - 1, x],
                    mask[y - 1, x + 1],
                    mask[y, x + 1],
                    mask[y + 1, x + 1],
                )
                south, south_west, west, north_west = (
                    mask[y + 1, x],
                    mask[y + 1, x - 1],
                    mask[y, x - 1],
                    mask[y - 1, x - 1],
                )
                ring = [north, north_east, east, south_east, south, south_west, west, north_west]
                crossings = sum(not ring[i] and (ring[i + 1] or ring[(i + 2) % 8]) for i in (0, 2, 4, 6))
                left = sum(bool(ring[i - 1] or ring[i]) for i in (0, 2, 4, 6))
                right = sum(bool(ring[i] or ring[i + 1]) for i in (0, 2, 4, 6))
                if second:
                    side = (north or north_east or not south_east) and east
                else:
                    side = (south or south_west or not north_west) and west
                if crossings == 1 and 2 <= min(left, right) <= 3 and not side:
                    doomed.append((y, x))
            for y, x in doomed:
                mask[y, x] = 0
        if (mask == before).all():
            return mask[1:-1, 1:-1].astype(bool)


def _blobs(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 30)), 1.5)
    return noise > 0.02


def test_thinning_is_guo_and_hall():
    for seed in range(6):
        mask = _blobs(seed)
        assert (thin(torch.from_numpy(mask)).numpy() == _guo_hall(mask)).all(), seed


def test_thinned_lines_hang_together_as_the_mask_did():
    eight = np.ones((3, 3))
    for seed in range(20):
        mask = _blobs(seed)
        lines = thin(torch.from_numpy(mask)).numpy()
        assert not (lines & ~mask).any()
        assert ndimage.label(lines, eight)[1] == ndimage.label(mask, eight)[1]
        assert not ndimage.binary_erosion(lines, np.ones((3, 3))).any()


def test_the_boundary_of_two_labels_thins_to_one_line():
    labels = torch.zeros(12, 16, dtype=torch.int32)
    labels[:, 8:] = 400
    edge = boundaries(labels)
    assert edge.nonzero()[:, 1].unique().tolist() == [7, 8]
    assert (thin(edge).sum(1)[1:-1] == 1).all()


def test_a_class_between_its_neighbours_in_number_has_edges_too():
    """A Laplacian of the label numbers, as is common, is zero in the middle of 1, 2, 3."""
    assert boundaries(torch.tensor([[1, 2, 3]])).all()


def test_one_label_has_no_boundary():
    assert not boundaries(torch.full((5, 6), 255)).any()
    assert not thin(torch.zeros(5, 6, dtype=torch.bool)).any()
