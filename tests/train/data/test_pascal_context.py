from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from slimtask.errors import InputError
from slimtask.train.data.boundaries import boundaries, thin
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.pascal_context import TASKS, PascalContextSource, valid_classes

SIZE = (20, 24)
IDS = {"train": [f"2008_{i:06d}" for i in range(6)], "val": ["2009_000001", "2009_000002"]}
WALL, SKY, TV, UNKNOWN = 440, 360, 427, 255  # 255 is a class like any other here


def _structs(fields, rows):
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row)
    return array


def _write_anno(path, people):
    head = np.zeros(SIZE, np.uint8)
    head[:, :5] = 1
    parts = _structs(("part_name", "mask"), [("hair", head)])
    one = _structs(
        ("class", "class_ind", "mask", "parts"), [("person" if people else "dog", 15 if people else 12, head, parts)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"anno": _structs(("imname", "objects"), [(path.stem, one)])})


def _labels():
    labels = np.full(SIZE, WALL, np.uint16)
    labels[:, 12:] = SKY
    labels[15:, 18:] = TV
    labels[15:, :6] = UNKNOWN
    return labels


def _write_image(root, name, index):
    for folder in ("JPEGImages", "semseg/VOC12", "semseg/pascal-context", "sal_distill", "normals_distill"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "pascal-context/trainval").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), (210, 110, 10), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
    seg = np.full(SIZE, 15, np.uint8)
    seg[0], seg[1] = 255, 0
    indexed = Image.new("P", SIZE[::-1])  # VOC's maps have a palette
    indexed.putdata(seg.ravel().tolist())
    indexed.putpalette([value * 7 % 256 for value in range(768)])
    indexed.save(root / f"semseg/{'VOC12' if index % 2 == 0 else 'pascal-context'}/{name}.png")
    saliency = np.zeros(SIZE, np.uint8)
    saliency[:, 5:10], saliency[:, 10] = 255, 127
    Image.fromarray(saliency).save(root / f"sal_distill/{name}.png")
    Image.fromarray(np.full((*SIZE, 3), (204, 127, 229), np.uint8)).save(root / f"normals_distill/{name}.png")
    savemat(root / f"pascal-context/trainval/{name}.mat", {"LabelMap": _labels()})
    _write_anno(root / f"human_parts/{name}.mat", people=index % 3 == 0)


@pytest.fixture
def folder(tmp_path):
    for split, ids in IDS.items():
        (tmp_path / "ImageSets/Context").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Context/{split}.txt").write_text("\n".join(ids) + "\n")
        for i, name in enumerate(ids):
            _write_image(tmp_path, name, i)
    (tmp_path / "data/db_info").mkdir(parents=True)
    context = {"wall": WALL, "sky": SKY, "tvmonitor": TV, "unknown": UNKNOWN}
    (tmp_path / "data/db_info/context_classes.json").write_text(json.dumps(context))
    (tmp_path / "data/db_info/nyu_classes.json").write_text(json.dumps({"wall": 21, "unknown": 0, "bed": 3}))
    return tmp_path


def _config(folder, **options):
    return DataConfig(name="pascal_context", root=str(folder), height=20, width=24, colour=0.0, flip=0.0, **options)


def test_every_target_in_its_layout(folder):
    with_people, without = (open_dataset(_config(folder), "test")[i] for i in (0, 1))
    assert (with_people["image"].mean((1, 2)) * 255 - torch.tensor([210.0, 110, 10])).abs().max() < 6
    for sample in (with_people, without):  # one has its classes in VOC12, the other in pascal-context
        assert sample["segmentation"][:, 3].tolist() == [255, 0] + [15] * 18
        assert sample["saliency"][0, 4].tolist() == [0] * 5 + [1] * 5 + [0] * 14
    assert with_people["human_parts"].as_subclass(torch.Tensor)[9].tolist() == [1] * 5 + [0] * 19
    assert (without["human_parts"] == 255).all()
    assert {task.name: task.weight for task in TASKS} == {
        **{"segmentation": 1, "human_parts": 2, "saliency": 5, "edges": 50, "normals": 10}
    }


def test_normals_count_only_on_the_classes_of_nyu_and_on_screens(folder):
    normals = open_dataset(_config(folder), "test")[0]["normals"].as_subclass(torch.Tensor)
    known = torch.from_numpy(np.isin(_labels(), [WALL, TV]))
    assert torch.equal(normals.norm(dim=0) > 0.5, known)
    expected = torch.nn.functional.normalize(torch.tensor([204.0, 127, 229]) / 255 * 2 - 1, dim=0)
    torch.testing.assert_close(normals[:, 3, 3], expected)
    assert sorted(valid_classes(folder).tolist()) == [TV, WALL]
    mirrored = open_dataset(_config(folder).model_copy(update={"flip": 1.0}), "train")[0]["normals"]
    torch.testing.assert_close(mirrored[:, 3, -4], expected * torch.tensor([-1.0, 1, 1]))


def test_edges_are_read_off_the_labels_at_the_final_size(folder):
    labels = torch.from_numpy(_labels().astype(np.int32))
    sample = open_dataset(_config(folder), "test")[0]
    assert torch.equal(sample["edges"].as_subclass(torch.Tensor)[0], thin(boundaries(labels)).float())
    large = _config(folder).model_copy(update={"height": 40, "width": 48})
    edges = open_dataset(large, "test")[0]["edges"].as_subclass(torch.Tensor)[0]
    grown = labels.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(edges, thin(boundaries(grown)).float())
    assert (edges[4:26].sum(1) == 1).all()  # one pixel wide at twice the size too


def test_people_alone_leave_out_images_without_people(folder):
    dataset = open_dataset(_config(folder, tasks=("human_parts",), holdout=0.34), "train")
    everything = {name for name in IDS["train"] if IDS["train"].index(name) % 3 == 0}
    assert set(dataset.source.ids) <= everything
    val = open_dataset(_config(folder, tasks=("human_parts",), holdout=0.34), "val")
    assert set(dataset.source.ids) | set(val.source.ids) == everything
    assert len(open_dataset(_config(folder, tasks=("human_parts",)), "test")) == 1
    assert len(open_dataset(_config(folder, tasks=("human_parts", "saliency")), "test")) == 2
    assert json.loads((folder / "ImageSets/Parts/val.txt").read_text()) == {"2009_000001": [15], "2009_000002": [12]}


def test_val_is_held_out_of_train_and_the_papers_val_is_test(folder):
    train, val, test = (
        PascalContextSource(folder, split, tasks=("saliency",)).ids for split in ("train", "val", "test")
    )
    assert test == IDS["val"]
    assert len(val) == 1
    assert sorted(train + val) == IDS["train"]


def test_only_the_files_of_wanted_tasks_are_needed(folder):
    for gone in ("human_parts", "pascal-context/trainval", "normals_distill", "semseg/VOC12"):
        (folder / gone / "2009_000001").with_suffix(".png" if gone[0] in "ns" else ".mat").unlink()
    assert len(PascalContextSource(folder, "test", tasks=("saliency",))) == 2
    for task, named in (
        ("human_parts", r"human_parts/2009_000001\.mat"),
        ("edges", r"trainval/2009_000001\.mat"),
        ("normals", r"normals_distill/2009_000001\.png"),
        ("segmentation", r"semseg/pascal-context/2009_000001\.png"),
    ):
        with pytest.raises(InputError, match=named):
            PascalContextSource(folder, "test", tasks=(task,))


def test_damaged_and_wrong_files_are_named(folder):
    path = folder / "pascal-context/trainval/2009_000001.mat"
    source = PascalContextSource(folder, "test", tasks=("edges",))
    for content, message in (
        ({"other": 1}, "has no 'LabelMap'"),
        ({"LabelMap": np.zeros((4, 4))}, "not a map of whole numbers"),
        ({"LabelMap": np.zeros((4, 4), np.uint16)}, "4 x 4 pixels"),
    ):
        savemat(path, content)
        with pytest.raises(InputError, match=message):
            source.load([0])
    path.write_bytes(b"MATLAB 5.0" + b"\x00" * 300)
    with pytest.raises(InputError, match=r"2009_000001\.mat' is damaged"):
        source.load([0])


def test_without_the_tables_of_classes_normals_are_refused_by_name(folder):
    (folder / "data/db_info/nyu_classes.json").write_text("[]")
    with pytest.raises(InputError, match=r"nyu_classes\.json' is not \{name: number\}"):
        PascalContextSource(folder, "test", tasks=("normals",))
    (folder / "data/db_info").rename(folder / "db_info")
    (folder / "db_info/nyu_classes.json").write_text('{"wall": 1}')
    assert len(PascalContextSource(folder, "test", tasks=("normals",))) == 2
    (folder / "db_info").rename(folder / "elsewhere")
    with pytest.raises(InputError, match=r"no folder data/db_info .* or leave out the task 'normals'"):
        PascalContextSource(folder, "test", tasks=("normals",))


def test_a_wrong_folder_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"val\.txt' does not exist; set data\.root"):
        PascalContextSource(tmp_path, "test")


def test_a_data_set_can_go_to_another_process(folder):
    dataset = open_dataset(_config(folder), "test")
    copy = pickle.loads(pickle.dumps(dataset))[0]
    assert all(torch.equal(copy[name], value) for name, value in dataset[0].items())


def test_augmented_batches_can_be_learned_from(folder, check_batch):
    check_batch(open_dataset(_config(folder, scale=(1.0, 1.5)), "train"))
