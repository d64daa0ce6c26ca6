"""What ``run`` says of a prediction in words, and that each of its results has a file of its own."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.export.exporter import export_bundle
from slimtask.export.predict import _summary, labels, predict
from slimtask.export.runtime import Runner
from slimtask.tasks import Preprocessing, TaskSpec


def test_a_depth_is_told_in_the_unit_of_its_task() -> None:
    values = np.array([[1.0, 2.5]], dtype=np.float32)
    metres = TaskSpec(name="depth", kind="depth", channels=1)
    assert _summary(metres, values) == "depth 1.00 to 2.50 m"
    assert _summary(metres.model_copy(update={"unit": "inverse depth"}), values) == "depth 1.00 to 2.50 inverse depth"


class EdgesTwice(nn.Module):
    """Two tasks, the name of one of which ends as the other's."""

    tasks = tuple(TaskSpec(name=name, kind="edges", channels=1) for name in ("edges", "depth_edges"))

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({task.name: nn.Conv2d(3, 1, 1) for task in self.tasks})

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.heads.items() if tasks is None or name in tasks}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = EdgesTwice().eval()
    out = tmp_path_factory.mktemp("predict") / "bundle"
    export_bundle(net, out, preprocessing=Preprocessing(height=8, width=12), paths=("fused",))
    return out


def write_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a_depth.png"),  # depth_edges of the one is edges of the other
        ("a.png", "a.bmp"),
        ("one/a.png", "two/a.png", "b.png"),
        ("a.png", "A.bmp"),
        ("a.png", "a.bmp", "2-a.png"),
        ("\u00e9.png", "two/e\u0301.png"),
        ("a.png", "b.png"),
    ],
)
def test_every_result_has_a_file_of_its_own_with_what_the_network_says(
    bundle: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    images = [write_image(tmp_path / name, seed) for seed, name in enumerate(names)]
    results = predict(bundle, images, tmp_path / "out")
    files = [Path(file) for one in results.images for file in (*one.pictures.values(), *one.arrays.values())]
    files += [Path(one.overview) for one in results.images]
    assert len({str(file).casefold() for file in files}) == len(files) == 5 * len(names)
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    with Runner.open(bundle, threads=1) as runner:
        for image, one in zip(images, results.images, strict=True):
            assert one.image == str(image)
            for task, output in runner.run(image).items():
                np.testing.assert_array_equal(np.load(one.arrays[task]), output[0])


def test_images_that_do_not_clash_keep_their_names() -> None:
    tasks = ("edges", "depth_edges")
    assert labels(["x/a.png", "b.jpg"], tasks) == ["a", "b"]
    assert labels(["a.png", "a_depth.png"], ["edges"]) == ["a", "a_depth"]
    assert labels(["a.png", "a_depth.png", "b.png"], tasks) == ["1-a", "2-a_depth", "b"]
    assert labels(["b.png", "a.png", "A.jpg"], tasks) == ["b", "2-a", "3-A"]
    assert labels(["a.png", "a.jpg", "2-a.png"], tasks) == ["1-a", "2-a", "3-2-a"]
    assert labels([], tasks) == []


def test_no_two_names_agree_whatever_they_are() -> None:
    rng = np.random.default_rng(0)
    stems = ["a", "A", "a_b", "a_b_c", "1-a", "2-a", "3-a_b", "a.overview", "\u00df", "SS", "\u212a", "k", ""]
    for _ in range(300):
        images = [f"{folder}/{rng.choice(stems)}.png" for folder in range(rng.integers(1, 7))]
        tasks = rng.choice(["c", "b_c", "a_b_c", "overview", "b"], rng.integers(1, 4), replace=False)
        named = labels(images, tasks)
        files = [f"{label}_{task}" for label, task in product(named, tasks)] + [f"{label}.overview" for label in named]
        assert len({file.casefold() for file in files}) == len(files)


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_done(bundle: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png", 0)
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    for images, out in (([image, strange], tmp_path / "out"), ([image], strange)):
        with pytest.raises(InputError, match=r"\\udcff\.png' is not UTF-8; rename it"):
            predict(bundle, images, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_a_bad_image_leaves_no_results_at_all(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(InputError, match=r"b\.png' is damaged or of a kind that is not read"):
        predict(bundle, [write_image(tmp_path / "a.png", 0), tmp_path / "b.png"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
