"""The command line: the whole chain on a tiny recipe, and one clear sentence with exit status 2 for every bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.tasks import Preprocessing
from slimtask.train.models import MultiTaskNet

RECIPE = """
name: tiny
data:
  {height: 32, width: 48, train: 16, val: 6, test: 6, cache: true, tasks: [segmentation, depth, normals]}
model: {width: 0.125, head_hidden: 8}
train: {steps: 20, batch: 4, lr: 0.003, eval_every: 10}
sparsity: {target: 0.6, warmup: 0.2, ramp: 0.4}
"""


@pytest.fixture(scope="module")
def chain(slimtask: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which train, compress and export have run."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "tiny.yaml").write_text(RECIPE)
    torch.set_num_threads(1)
    assert slimtask("train", folder / "tiny.yaml", "--out", folder / "run", "--json", folder / "train.json") == 0
    trained = folder / "run" / "checkpoint.safetensors"
    small = folder / "small.safetensors"
    assert slimtask("compress", trained, "--out", small, "--align", 1, "--json", folder / "compress.json") == 0
    assert slimtask("export", trained, "--out", folder / "dense") == 0
    assert slimtask("export", small, "--out", folder / "bundle", "--json", folder / "export.json") == 0
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def picture(path: Path, size: tuple[int, int] = (48, 32)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_every_verb_writes_its_json(slimtask: Callable[..., int], chain: Path) -> None:
    assert read(chain / "train.json")["target_reached"] is True
    compressed = read(chain / "compress.json")
    assert compressed["certificate"]["holds"] is True
    assert compressed["after"]["trunk_params"] < 0.45 * compressed["before"]["trunk_params"]
    assert {artifact["role"] for artifact in read(chain / "export.json")["artifacts"]} == {
        "fused", "segmentation", "depth", "normals",
    }  # fmt: skip
    for verb in ("verify", "inspect"):
        for what in ("bundle", "small.safetensors"):
            out = chain / f"{verb}-{what}.json"
            assert slimtask(verb, chain / what, "--json", out) == 0
            assert read(out)


def test_run_writes_pictures_and_arrays_that_agree_before_and_after_removal(
    slimtask: Callable[..., int], chain: Path, tmp_path: Path
) -> None:
    image = picture(tmp_path / "a.png")
    for name in ("dense", "bundle"):
        assert slimtask("run", chain / name, image, "--out", tmp_path / name) == 0
    for task in ("segmentation", "depth", "normals"):
        before, after = (np.load(tmp_path / name / f"a_{task}.npy") for name in ("dense", "bundle"))
        assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
        with Image.open(tmp_path / "bundle" / f"a_{task}.png") as shown:
            assert shown.size[0] >= 48
    assert (tmp_path / "bundle" / "a.overview.png").exists()


def test_bench_compares_bundles(slimtask: Callable[..., int], chain: Path, tmp_path: Path) -> None:
    words = ("--against", chain / "dense", "--rounds", 5, "--json", tmp_path / "b.json")
    assert slimtask("bench", chain / "bundle", *words) == 0
    rows = read(tmp_path / "b.json")["rows"]
    assert {(row["level"], row["path"]) for row in rows} == {
        (str(chain / name), path)
        for name in ("dense", "bundle")
        for path in ("fused", "segmentation", "depth", "normals")
    }
    assert all(len(row["measurement"]["samples_ms"]) == 5 for row in rows)


def refused(
    slimtask: Callable[..., int],
    words: tuple[object, ...],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    status: int = 2,
) -> None:
    assert slimtask(*words) == status
    printed = capsys.readouterr().err
    assert sentence in printed, printed
    assert "Traceback" not in printed


def test_bad_recipes(
    slimtask: Callable[..., int], chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = chain / "tiny.yaml", tmp_path / "out"
    refused(slimtask, ("train", recipe, "--set", "train.stpes=3", "--out", out), "did you mean 'steps'", capsys)
    refused(slimtask, ("train", recipe, "--set", "data.tasks=[dept]", "--out", out), "unknown task 'dept'", capsys)
    gone = ("--set", "data.name=camvid", "--set", f"data.root={tmp_path / 'gone'}", "--set", "data.tasks=null")
    refused(slimtask, ("train", recipe, *gone, "--out", out), "gone", capsys)
    refused(slimtask, ("train", recipe, "--out", chain / "run"), "exists already", capsys)
    refused(slimtask, ("train", tmp_path / "none.yaml"), "does not exist", capsys)
    if not torch.cuda.is_available():
        refused(slimtask, ("train", recipe, "--set", "train.accelerator=cuda", "--out", out), "no CUDA device", capsys)
    refused(slimtask, ("sweep", recipe, "--levels", "0,1.5", "--out", out), "between 0 and 1", capsys)
    refused(slimtask, ("sweep", recipe, "--levels", "half", "--out", out), "takes numbers", capsys)
    refused(slimtask, ("sweep", recipe, "--set", "sparsity=null", "--out", out), "has none", capsys)
    assert list(tmp_path.iterdir()) == []


def test_bad_images(
    slimtask: Callable[..., int], chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = picture(tmp_path / "other.png", (60, 40))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-2000])
    out = tmp_path / "out"
    for name in ("text", "empty", "cut", "none"):
        refused(slimtask, ("run", chain / "bundle", tmp_path / f"{name}.png", "--out", out), f"{name}.png", capsys)
    refused(slimtask, ("run", chain / "bundle", whole, "--out", out), "--resize", capsys)
    refused(slimtask, ("run", chain / "bundle", whole, "--tasks", "dept", "--out", out), "did you mean 'depth'", capsys)
    assert not out.exists()
    assert slimtask("run", chain / "bundle", whole, "--resize", "--out", out) == 0
    refused(slimtask, ("run", chain / "bundle", whole, "--resize", "--out", out), "exists already", capsys)


def test_bad_checkpoints(
    slimtask: Callable[..., int],
    chain: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    small_net: Callable[..., MultiTaskNet],
) -> None:
    whole = (chain / "small.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "nan.safetensors").write_bytes(whole[:-4] + b"\xff\xff\xff\x7f")
    (tmp_path / "ours.safetensors").write_bytes(b"")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name in ("cut", "nan", "ours", "foreign", "none"):
        for verb in ("compress", "export"):
            path = tmp_path / f"{name}.safetensors"
            refused(slimtask, (verb, path, "--out", tmp_path / "out"), f"{name}.safetensors", capsys)
        refused(slimtask, ("verify", tmp_path / f"{name}.safetensors"), f"{name}.safetensors", capsys)
        refused(slimtask, ("inspect", tmp_path / f"{name}.safetensors"), f"{name}.safetensors", capsys)
    model = small_net()
    dense = Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=32, width=48),
    )
    dense.save(tmp_path / "dense.safetensors")
    refused(
        slimtask,
        ("compress", tmp_path / "dense.safetensors", "--out", tmp_path / "out"),
        "nothing can be removed",
        capsys,
    )
    assert not (tmp_path / "out").exists()


def test_a_changed_byte_in_a_bundle(
    slimtask: Callable[..., int], chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(chain / "bundle", tmp_path / "bundle")
    data = bytearray((tmp_path / "bundle" / "weights.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bundle" / "weights.bin").write_bytes(data)
    refused(slimtask, ("verify", tmp_path / "bundle"), "files", capsys, status=1)
    image = picture(tmp_path / "a.png")
    refused(slimtask, ("run", tmp_path / "bundle", image, "--out", tmp_path / "out"), "weights.bin", capsys)
    refused(slimtask, ("bench", tmp_path / "bundle"), "weights.bin", capsys, status=1)
    assert not (tmp_path / "out").exists()


def test_exports_that_cannot_be(
    slimtask: Callable[..., int], chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, out = chain / "small.safetensors", tmp_path / "out"
    refused(slimtask, ("export", small, "--out", out, "--to", "onx"), "did you mean 'onnx'", capsys)
    refused(slimtask, ("export", small, "--out", out, "--paths", "fusd"), "did you mean 'fused'", capsys)
    refused(slimtask, ("export", small, "--out", chain / "bundle"), "exists already", capsys)
    assert not out.exists()


@pytest.mark.data
def test_real_frames_go_through_and_agree(
    slimtask: Callable[..., int],
    real_data: Path,
    tmp_path: Path,
    small_net: Callable[..., MultiTaskNet],
    kill: Callable[..., None],
) -> None:
    """Two NYU-v2 frames, made 320 x 240: compress + run equals run, to 1e-5 relative."""
    frames = sorted((real_data / "nyu_v2_samples" / "img").glob("*.png"))
    model = small_net()
    kill(model, "filter", "trunk")
    Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=240, width=320),
    ).save(tmp_path / "dense.safetensors")
    assert slimtask("compress", tmp_path / "dense.safetensors", "--out", tmp_path / "small.safetensors") == 0
    for name in ("dense", "small"):
        assert slimtask("export", tmp_path / f"{name}.safetensors", "--out", tmp_path / name, "--paths", "fused") == 0
        assert slimtask("run", tmp_path / name, *frames, "--resize", "--out", tmp_path / f"{name}-out") == 0
    arrays = sorted((tmp_path / "dense-out").glob("*.npy"))
    assert len(arrays) == 2 * len(model.tasks)
    for array in arrays:
        before, after = np.load(array), np.load(tmp_path / "small-out" / array.name)
        assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
