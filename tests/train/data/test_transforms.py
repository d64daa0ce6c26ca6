from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from slimtask.errors import Unsupported
from slimtask.train.data.transforms import (
    Depth,
    InverseDepth,
    LabelMap,
    Normals,
    ZoomTo,
    training_transform,
    validation_transform,
)


def _normals(height=6, width=8):
    values = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    return Normals(torch.nn.functional.normalize(values, dim=0))


def _plain(value):
    return value.as_subclass(torch.Tensor)


def test_a_mirrored_normal_map_is_mirrored_and_its_x_negated():
    normals = _normals()
    mirrored = F.horizontal_flip(normals)
    assert type(mirrored) is Normals
    expected = torch.stack([-normals[0].flip(-1), normals[1].flip(-1), normals[2].flip(-1)])
    assert torch.equal(_plain(mirrored), _plain(expected))
    assert torch.equal(_plain(F.horizontal_flip(mirrored)), _plain(normals))


def test_a_normal_map_upside_down_has_its_y_negated():
    normals = _normals()
    turned = F.vertical_flip(normals)
    assert torch.equal(_plain(turned)[1], -_plain(normals)[1].flip(-2))
    assert torch.equal(_plain(F.vertical_flip(turned)), _plain(normals))


def test_mirroring_agrees_with_the_normals_of_the_mirrored_depth():
    """Normals by finite differences of a mirrored depth map are the mirrored normals."""
    y, x = torch.meshgrid(torch.linspace(0.5, -0.5, 20), torch.linspace(-0.7, 0.7, 28), indexing="ij")
    depth = 2.0 + 0.6 * x + 0.3 * y * y

    def normals_of(z):
        points = torch.stack([x * z, y * z, -z]).double()
        right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
        up = points[:, :-2, 1:-1] - points[:, 2:, 1:-1]
        return torch.nn.functional.normalize(torch.linalg.cross(right, up, dim=0), dim=0)

    mirrored = F.horizontal_flip(Normals(normals_of(depth)))
    torch.testing.assert_close(_plain(mirrored), normals_of(depth.flip(-1)), atol=1e-9, rtol=0)


def test_label_maps_are_resized_to_the_nearest_pixel_centre():
    labels = LabelMap(torch.arange(16, dtype=torch.uint8).view(1, 16).expand(4, 16).contiguous())
    small = F.resize(labels, [2, 4])
    assert type(small) is LabelMap
    assert small.dtype == torch.uint8
    # Centres of the four new pixels: 2, 6, 10, 14 (in old pixels, edges at 0); the pixel centres nearest: 2.5 ...
    assert small[0].tolist() == [2, 6, 10, 14]
    assert F.resize(labels, [8, 32])[0, :4].tolist() == [0, 0, 1, 1]


def test_nothing_that_would_tilt_normals_is_allowed():
    with pytest.raises(Unsupported, match="surface normals"):
        F.rotate(_normals(), 10.0)


def test_a_zoom_crops_image_and_maps_alike():
    torch.manual_seed(0)
    ramp = torch.arange(40.0).view(1, 1, 40).expand(3, 30, 40) / 40
    sample = {"image": tv_tensors.Image(ramp), "depth": Depth(ramp[:1] + 1.0)}
    for _ in range(5):
        out = ZoomTo((30, 40), (1.5, 2.0))(sample)
        assert out["image"].shape == (3, 30, 40)
        # The map is sampled at the nearest pixel centre, so image and map agree to half an old pixel.
        assert (_plain(out["image"])[0] - (_plain(out["depth"])[0] - 1.0)).abs().max() < 0.6 / 40


def test_a_zoom_with_a_fixed_lens_brings_the_scene_nearer_consistently():
    """Points back-projected with the original lens from zoomed depth must lie on surfaces with the zoomed normals."""
    normal = torch.nn.functional.normalize(torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64), dim=0)
    y, x = torch.meshgrid(
        (19.5 - torch.arange(40.0).double()) / 20, (torch.arange(40.0).double() - 19.5) / 20, indexing="ij"
    )
    ray = torch.stack([x, y, -torch.ones_like(x)]) * torch.tensor([0.4, 0.4, 1.0], dtype=torch.float64)[:, None, None]
    depth = Depth((-2.0 / (normal[:, None, None] * ray).sum(0))[None])
    sample = {
        "image": tv_tensors.Image(torch.zeros(3, 40, 40)),
        "depth": depth,
        "inverse": InverseDepth(1 / _plain(depth)),
        "normals": Normals(normal[:, None, None].expand(3, 40, 40).contiguous()),
    }

    class Centred(ZoomTo):
        def make_params(self, flat_inputs):
            return {"top": 10, "left": 10, "height": 20, "width": 20, "zoom": 2.0}

    out = Centred((40, 40), (2.0, 2.0), fixed_lens=True)(sample)
    # Each old pixel became a block of 2 x 2; its centre is the middle of the block.
    centre = (ray[:, ::2, ::2] + ray[:, 1::2, 1::2]) / 2
    points = centre * _plain(out["depth"])[:, ::2, ::2]
    torch.testing.assert_close(_plain(out["inverse"]), 1 / _plain(out["depth"]))
    n = _plain(out["normals"])[:, ::2, ::2]
    assert (n.norm(dim=0) - 1).abs().max() < 1e-9
    step = points[:, :, 1:] - points[:, :, :-1]
    cosine = (n[:, :, 1:] * step).sum(0) / step.norm(dim=0)
    assert cosine.abs().max() < 1e-9
    kept = Centred((40, 40), (2.0, 2.0), fixed_lens=False)(sample)
    assert torch.equal(_plain(kept["normals"])[:, 0, 0], normal)
    assert _plain(kept["depth"])[0, 0, 0] == _plain(depth)[0, 10, 10]


def test_unknown_depth_and_normals_stay_zero():
    sample = {
        "image": tv_tensors.Image(torch.zeros(3, 20, 20)),
        "depth": Depth(torch.zeros(1, 20, 20)),
        "normals": Normals(torch.zeros(3, 20, 20)),
    }
    out = ZoomTo((20, 20), (1.5, 2.0), fixed_lens=True)(sample)
    assert not _plain(out["depth"]).any()
    assert not _plain(out["normals"]).any()


def test_training_makes_float_images_in_range_and_leaves_labels_alone():
    sample = {
        "image": tv_tensors.Image(torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)),
        "segmentation": LabelMap(torch.randint(0, 5, (20, 30), dtype=torch.uint8)),
        "room": torch.tensor(2),
    }
    torch.manual_seed(0)
    out = training_transform((20, 30), flip=1.0, scale=(1.0, 1.0), colour=0.4, fixed_lens=False)(sample)
    assert out["image"].dtype == torch.float32
    assert out["image"].min() >= 0.0
    assert out["image"].max() <= 1.0
    assert torch.equal(_plain(out["segmentation"]), _plain(sample["segmentation"]).flip(-1))
    assert out["room"] == 2


def test_validation_at_the_same_size_only_scales_the_values():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    out = validation_transform((20, 30))({"image": tv_tensors.Image(image)})
    torch.testing.assert_close(_plain(out["image"]), image.float() / 255)


def test_the_classes_are_masks_for_torchvision():
    assert issubclass(Normals, LabelMap)
    assert issubclass(LabelMap, tv_tensors.Mask)
    assert isinstance(v2.RandomHorizontalFlip(1.0)(Depth(torch.ones(1, 2, 2))), Depth)
