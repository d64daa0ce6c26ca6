from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors

from slimtask.errors import InputError
from slimtask.tasks import Preprocessing
from slimtask.train.data.protocol import MultiTaskDataset, collate
from slimtask.train.data.transforms import Depth, LabelMap


def _sample(value):
    return {
        "image": tv_tensors.Image(torch.full((3, 4, 6), value)),
        "segmentation": LabelMap(torch.full((4, 6), 255, dtype=torch.uint8)),
        "depth": Depth(torch.full((1, 4, 6), 2.0)),
        "room": torch.tensor(3),
        "objects": torch.tensor([0.0, 1.0]),
    }


def test_collate_normalises_images_and_gives_the_layouts_of_the_task_specs():
    preprocessing = Preprocessing(height=4, width=6, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.5))
    image, targets = collate([_sample(0.5), _sample(1.0)], preprocessing)
    assert type(image) is torch.Tensor
    torch.testing.assert_close(image[1, :, 0, 0], torch.tensor([5.0, 3.0, 1.4]))
    torch.testing.assert_close(image[0, :, 3, 5], torch.tensor([0.0, 0.5, 0.4]))
    layout = {name: (type(target), target.dtype, tuple(target.shape)) for name, target in targets.items()}
    assert layout == {
        "segmentation": (torch.Tensor, torch.int64, (2, 4, 6)),
        "depth": (torch.Tensor, torch.float32, (2, 1, 4, 6)),
        "room": (torch.Tensor, torch.int64, (2,)),
        "objects": (torch.Tensor, torch.float32, (2, 2)),
    }
    assert targets["segmentation"].unique().tolist() == [255]


def test_collate_gives_channels_in_the_order_that_the_network_takes():
    sample = _sample(0.5)
    sample["image"] = sample["image"] * torch.tensor([0.0, 0.5, 1.0])[:, None, None]
    size = {"height": sample["image"].shape[1], "width": sample["image"].shape[2]}
    plain = Preprocessing(**size, mean=(0, 0, 0), std=(1, 1, 1))
    rgb, bgr = (collate([sample], plain.model_copy(update={"order": order}))[0] for order in ("rgb", "bgr"))
    assert not torch.equal(rgb, bgr)
    assert torch.equal(rgb[:, [2, 1, 0]], bgr)


def test_collate_refuses_another_size_and_an_empty_batch():
    with pytest.raises(InputError, match="4 x 6 pixels does not fit the preprocessing, which says 8 x 6"):
        collate([_sample(0.5)], Preprocessing(height=8, width=6))
    with pytest.raises(InputError, match="no samples"):
        collate([], Preprocessing(height=8, width=6))


def test_anything_with_the_members_is_a_data_set():
    class Own:
        tasks = ()

        def __len__(self):
            return 0

        def __getitem__(self, index):
            return {}

    assert isinstance(Own(), MultiTaskDataset)
    assert not isinstance([], MultiTaskDataset)
