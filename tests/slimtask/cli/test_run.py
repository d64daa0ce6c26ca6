"""`slimtask run`: other people's images end in predictions or in one sentence, and no prediction is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from slimtask.export.exporter import export_bundle
from slimtask.tasks import Preprocessing, TaskSpec

Run = Callable[..., int]


class Edges(nn.Module):
    tasks = tuple(TaskSpec(name=name, kind="edges", channels=1) for name in ("edges", "depth_edges"))

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        both = self.head(x)
        found = {"edges": both[:, :1], "depth_edges": both[:, 1:]}
        return {name: output for name, output in found.items() if tasks is None or name in tasks}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Edges().eval()
    out = tmp_path_factory.mktemp("run") / "bundle"
    export_bundle(net, out, preprocessing=Preprocessing(height=8, width=12), paths=("fused",))
    return out


def test_images_whose_results_would_share_a_file_are_numbered(slimtask: Run, bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    for name, image in zip(("a.png", "a_depth.png"), pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    both, alone = tmp_path / "both", tmp_path / "alone"
    images = (tmp_path / "a.png", tmp_path / "a_depth.png")
    assert slimtask("run", bundle, *images, "--out", both, "--json", tmp_path / "r.json") == 0
    told = json.loads((tmp_path / "r.json").read_text())["images"]
    assert [one["arrays"]["edges"] for one in told] == [str(both / "1-a_edges.npy"), str(both / "2-a_depth_edges.npy")]
    assert slimtask("run", bundle, tmp_path / "a.png", "--out", alone) == 0
    for task in ("edges", "depth_edges"):
        np.testing.assert_array_equal(np.load(told[0]["arrays"][task]), np.load(alone / f"a_{task}.npy"))


def test_16_bit_grey_gives_what_8_bit_grey_gives(slimtask: Run, bundle: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 12), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "eight.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    assert slimtask("run", bundle, tmp_path / "eight.png", tmp_path / "wide.png", "--out", tmp_path / "out") == 0
    eight, wide = (np.load(tmp_path / "out" / f"{name}_edges.npy") for name in ("eight", "wide"))
    np.testing.assert_array_equal(eight, wide)


def test_a_bad_image_ends_in_one_sentence(
    slimtask: Run, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Image.fromarray(np.zeros((9400, 9400), bool)).save(tmp_path / "bomb.png")
    Image.fromarray(np.full((8, 12), 3e4, np.float32)).save(tmp_path / "depth.tif")
    Image.fromarray(np.zeros((8, 12, 4), np.uint8)).save(tmp_path / "clear.png")
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    whole = bytearray((tmp_path / "lzw.tif").read_bytes())
    whole[8:40] = b"\xff" * 32
    (tmp_path / "lzw.tif").write_bytes(whole)
    os.mkfifo(tmp_path / "pipe.png")
    for name, what in (
        ("photo.png", "of a kind that is not read"),
        ("bomb.png", "has 9400 x 9400 pixels"),
        ("depth.tif", "floating-point values"),
        ("clear.png", "transparent"),
        ("lzw.tif", "is damaged"),
        ("pipe.png", "is a pipe"),
        (os.fsdecode(b"\xff.png"), "is not UTF-8"),
    ):
        assert slimtask("run", bundle, tmp_path / name, "--out", tmp_path / "out") == 2
        said = [line for line in capfd.readouterr().err.splitlines() if line.strip() and "━" not in line]
        assert len(said) == 1, said
        assert said[0].startswith("slimtask: the ")
        assert what in said[0]
    assert not (tmp_path / "out").exists()
