"""A network of the user's own through compress, inspect, verify, export and run; every wrong word is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

MODULE = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        )
        self.parts = nn.ConvTranspose2d(24, 2, 2, stride=2)
        self.classes = nn.Linear(24, classes)
    def forward(self, x):
        x = self.body(x)
        return {"classes": self.classes(x.mean(dim=(2, 3))), "parts": self.parts(x)}

class Pair(Tiny):
    def forward(self, x):
        return tuple(super().forward(x).values())

class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    def forward(self, x, y):
        return self.net(x + y)

class Depths(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1))
    def forward(self, x):
        return {"depth": self.net(x), "edges": self.net(x)}

class Masked(Tiny):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((2, 2), float("-inf")))

def breaks(): raise RuntimeError("no such cable")
"""
TASKS = "- {name: classes, kind: classification, channels: 5}\n- {name: parts, kind: segmentation, channels: 2}\n"
FLOPS = ("--flops", 0.5, "--align", 1)
Refuse = Callable[..., None]


@pytest.fixture(scope="module")
def home(slimtask: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the user's module, weights, task file and the compressed network."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tinynet_of_a_test.py").write_text(MODULE)
    (folder / "tasks.yaml").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from slimtask.cli.factory import load_factory

        torch.manual_seed(0)
        model = load_factory("tinynet_of_a_test:Tiny")()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias)
        torch.save({"state_dict": model.state_dict()}, folder / "w.pt")
        words = ("--weights", "w.pt", "--tasks", "tasks.yaml", "--input", "1x3x32x48", "--json", "c.json")
        assert slimtask("compress", *MODEL, *words, *FLOPS, "--out", "small.safetensors") == 0
    return folder


MODEL = ("--model", "tinynet_of_a_test:Tiny")
SHAPE = ("--input", "1x3x32x48")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture
def refused(slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Return a function that runs words and asserts exit status 2 and the sentence, without a traceback."""

    def check(sentence: str, *words: object) -> None:
        assert slimtask(*words) == 2
        printed = capsys.readouterr().err
        assert sentence in " ".join(printed.split()), printed
        assert "Traceback" not in printed

    return check


def read(path: Path | str) -> Any:
    return json.loads(Path(path).read_text())


def test_the_four_verbs_and_the_bundle_work(slimtask: Callable[..., int], tmp_path: Path) -> None:
    done = read("c.json")
    assert done["certificate"]["holds"] is True
    assert done["after"]["flops"] <= 0.5 * done["before"]["flops"]
    assert slimtask("inspect", "small.safetensors", *MODEL, "--json", tmp_path / "i.json") == 0
    seen = read(tmp_path / "i.json")
    assert {row["layer"] for row in seen["layers"]} >= {"body.0", "body.1", "body.3", "body.4", "classes", "parts"}
    assert seen["coverage"]["open_groups"] == 2
    assert slimtask("verify", "small.safetensors", *MODEL) == 0
    assert slimtask("export", "small.safetensors", *MODEL, "--out", tmp_path / "bundle") == 0
    assert slimtask("verify", tmp_path / "bundle") == 0
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert slimtask("run", tmp_path / "bundle", tmp_path / "a.png", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a_classes.npy").exists()


def test_a_dense_network_is_bundled_as_it_is(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refuse
) -> None:
    from slimtask.cli.factory import load_factory, load_weights_
    from slimtask.export.runtime.runner import Runner

    words = ("export", *MODEL, "--weights", "w.pt", *SHAPE, "--out", tmp_path / "dense")
    refused("give --tasks", *words)
    assert slimtask(*words, "--tasks", "tasks.yaml") == 0
    assert "taken: mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], order rgb" in " ".join(
        capsys.readouterr().out.split()
    )
    assert slimtask("verify", tmp_path / "dense") == 0
    model = load_factory(MODEL[1])().eval()
    load_weights_(model, "w.pt")
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 48)).astype(np.float32)
    with Runner.open(tmp_path / "dense") as runner, torch.no_grad():
        for name, output in model(torch.from_numpy(image)).items():
            np.testing.assert_allclose(runner.infer(image)[name], output.numpy(), rtol=1e-4, atol=1e-5)
    refused("give a checkpoint, or --model", "export", "--out", tmp_path / "b")
    refused("needs the shape of its input", "export", *MODEL, "--tasks", "tasks.yaml", "--out", tmp_path / "b")
    refused("--weights describes", "export", "small.safetensors", *MODEL, "--weights", "w.pt", "--out", tmp_path / "b")


def test_a_network_is_explained_before_anything_is_cut(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slimtask("inspect", *MODEL, *SHAPE, "--json", tmp_path / "i.json") == 0
    assert "40 of 47 channels may be removed (2 of 4 groups" in " ".join(capsys.readouterr().out.split())
    coverage = read(tmp_path / "i.json")["coverage"]
    assert {refusal["group"] for refusal in coverage["refused"]} == {"parts", "classes"}


def test_without_tasks_all_but_the_export_works(slimtask: Callable[..., int], tmp_path: Path, refused: Refuse) -> None:
    out = tmp_path / "s.safetensors"
    assert slimtask("compress", *MODEL, "--weights", "w.pt", *SHAPE, "--params", 0.5, "--out", out) == 0
    assert slimtask("verify", out, *MODEL) == 0
    refused("give --tasks", "export", out, *MODEL, "--out", tmp_path / "b")
    assert slimtask("export", out, *MODEL, "--tasks", "tasks.yaml", "--out", tmp_path / "b") == 0


def test_tuples_are_named_by_the_order_of_the_tasks(slimtask: Callable[..., int], tmp_path: Path) -> None:
    pair, out = ("--model", "tinynet_of_a_test:Pair"), tmp_path / "s.safetensors"
    assert slimtask("compress", *pair, "--tasks", "tasks.yaml", *SHAPE, "--keep", 0.6, "--out", out) == 0
    assert slimtask("export", out, *pair, "--out", tmp_path / "b", "--paths", "fused") == 0


def test_several_inputs_that_are_no_images(slimtask: Callable[..., int], tmp_path: Path, refused: Refuse) -> None:
    vector, out = ("--model", "tinynet_of_a_test:Vector"), tmp_path / "s.safetensors"
    tasks = tmp_path / "one.yaml"
    tasks.write_text("- {name: classes, kind: classification, channels: 3}")
    words = ("--input", "1x6,1x6", "--keep", 0.5, "--tasks", tasks)
    assert slimtask("compress", *vector, *words, "--out", out) == 0
    assert slimtask("verify", out, *vector) == 0
    assert slimtask("inspect", out, *vector) == 0
    refused("takes 1x6, 1x6; export it in Python", "export", out, *vector, "--out", tmp_path / "b")


def test_a_foreign_file_is_opened_only_with_its_factory(
    slimtask: Callable[..., int], refused: Refuse, tmp_path: Path
) -> None:
    for verb, more in (("verify", ()), ("inspect", ()), ("export", ("--out", tmp_path / "b")), ("compress", ())):
        words = (*more, "--out", tmp_path / "c", "--keep", 0.5) if verb == "compress" else more
        refused("give --model tinynet_of_a_test:Tiny", verb, "small.safetensors", *words)
    refused("does not fit", "verify", "small.safetensors", "--model", "tinynet_of_a_test:Vector")
    refused("leave it out", "compress", "small.safetensors", *MODEL, *SHAPE, "--keep", 0.5, "--out", tmp_path / "c")
    assert slimtask("compress", "small.safetensors", *MODEL, *FLOPS, "--out", tmp_path / "c.safetensors") == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "c.safetensors"]


def test_budgets_exclude_each_other_and_have_bounds(refused: Refuse, tmp_path: Path) -> None:
    start = ("compress", *MODEL, *SHAPE, "--out", tmp_path / "c")
    refused("--keep and --flops are two ways", *start, "--keep", 0.5, "--flops", 0.5)
    refused("--zeros and --params are two ways", *start, "--zeros", "--params", 0.5)
    refused("--importance needs a budget", *start, "--importance", "l1")
    refused("--vote needs a budget", *start, "--zeros", "--vote", "all")
    for value in ("0", "2", "-1", "nan", "inf"):
        refused(f"--keep {value} is no budget", *start, "--keep", value)
    for name in ("params", "flops"):
        for value in ("0", "-3", "nan", "inf"):
            refused(f"--{name} {value} is no budget", *start, f"--{name}", value)
    refused("smallest network possible", *start, "--params", 2)
    refused("met by the network as it is", *start, "--keep", 1)
    refused("did you mean 'taylor'", *start, "--keep", 0.5, "--importance", "tailor")
    refused("did you mean 'global'", *start, "--keep", 0.5, "--scope", "globl")
    for value in ("0", "-1", "half", "1.5", ""):
        refused(f"--align takes a count of channels, 1 or more, or auto, not '{value}'", *start, "--align", value)
    refused("nothing can be removed", *start, "--zeros")
    refused("only by a criterion that looks", *start, "--keep", 0.5, "--vote", "all")
    refused("looks at no data", *start, "--keep", 0.5, "--calibration", "r.yaml")
    assert list(tmp_path.iterdir()) == []


def test_networks_and_files_that_are_wrong(slimtask: Callable[..., int], refused: Refuse, tmp_path: Path) -> None:
    end = ("--keep", 0.5, "--out", tmp_path / "c")
    refused("no network to work on", "compress", *end)
    refused("nothing to inspect", "inspect")
    refused("needs the shape of its input", "compress", *MODEL, *end)
    refused("not '3x'", "compress", *MODEL, "--input", "3x", *end)
    refused("does not run on the example input", "compress", *MODEL, "--input", "1x4x32x32", *end)
    refused("no module 'no_such_net'", "compress", "--model", "no_such_net:Net", *SHAPE, *end)
    refused("no such cable", "compress", "--model", "tinynet_of_a_test:breaks", *SHAPE, *end)
    refused("no 'Tny'; did you mean 'Tiny'", "inspect", "--model", "tinynet_of_a_test:Tny", *SHAPE)
    refused(
        "buffer 'mask'; register it with persistent=False", "inspect", "--model", "tinynet_of_a_test:Masked", *SHAPE
    )
    refused("there is no file", "inspect", "--model", "mynet.py:Net", *SHAPE)
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes(Path("w.pt").read_bytes()[:900])
    for name, words in (("empty", "an empty file"), ("cut", "not a whole torch file"), ("none", "does not exist")):
        refused(words, "compress", *MODEL, *SHAPE, "--weights", tmp_path / f"{name}.pt", *end)
    for text, words in (
        (TASKS.replace("classes", "clases"), "no output 'clases', by which a task is called; did you mean 'classes'"),
        (TASKS.replace("5", "6"), "needs an output of shape [1, 6]"),
        ("- [", "not valid YAML"),
    ):
        (tmp_path / "t.yaml").write_text(text)
        refused(words, "compress", *MODEL, *SHAPE, "--tasks", tmp_path / "t.yaml", *end)
    refused("exists already", "compress", *MODEL, *SHAPE, "--keep", 0.5, "--out", "small.safetensors")
    assert not (tmp_path / "c").exists()
    assert slimtask("compress", *MODEL, *SHAPE, "--keep", 0.5, "--out", tmp_path / "new" / "folder" / "c") == 0
    (tmp_path / "plain").write_text("")
    assert slimtask("compress", *MODEL, *SHAPE, "--keep", 0.5, "--out", tmp_path / "plain" / "c") == 2


def test_a_path_that_reads_like_a_picture_is_shown_as_it_is(refused: Refuse, home: Path) -> None:
    """Between colons the console could take a word for the name of a picture (`refused` asserts what it prints)."""
    (home / "tinynet_car.py").write_text("def car(): raise RuntimeError")
    assert not (home / "c").exists()
    refused("--model 'tinynet_car:car': calling it fails", "inspect", "--model", "tinynet_car:car", *SHAPE)


def test_the_loss_decides_where_a_recipe_gives_data(
    slimtask: Callable[..., int], refused: Refuse, tmp_path: Path
) -> None:
    depths = ("--model", "tinynet_of_a_test:Depths", *SHAPE, "--keep", 0.5)
    out = ("--importance", "taylor", "--out", tmp_path / "s.safetensors")
    refused("needs the losses of tasks", "compress", *depths, *out)
    (tmp_path / "t.yaml").write_text(
        "".join(f"- {{name: {name}, kind: {name}, channels: 1}}\n" for name in ("depth", "edges"))
    )
    tasks = ("--tasks", tmp_path / "t.yaml")
    refused("give --calibration RECIPE", "compress", *depths, *tasks, *out)
    (tmp_path / "r.yaml").write_text("data: {train: 8, val: 1, test: 1}")
    recipe = ("--calibration", tmp_path / "r.yaml")
    refused("does not exist", "compress", *depths, *tasks, *out, "--calibration", tmp_path / "none.yaml")
    words = ("--input", "1x3x32x48", "--keep", 0.5, "--tasks", "tasks.yaml", "--importance", "snip")
    refused("unknown task 'classes'", "compress", *MODEL, *words, *recipe, "--out", tmp_path / "s.safetensors")
    assert slimtask("compress", *depths, *tasks, *out, *recipe, "--vote", "all") == 0


def test_an_onnx_file_becomes_a_smaller_one(slimtask: Callable[..., int], refused: Refuse, tmp_path: Path) -> None:
    import onnx

    graph, out = tmp_path / "g.onnx", tmp_path / "s.onnx"
    onnx.save(_graph(), graph)
    refused("of an ONNX file only zeros", "compress", graph, "--keep", 0.5, "--out", out)
    refused("leave it out", "compress", graph, *MODEL, "--out", out)
    refused("call the output", "compress", graph, "--out", tmp_path / "s.safetensors")
    refused("is an ONNX file, which only", "inspect", graph)
    whole = graph.read_bytes()
    for name, content in (("cut", whole[:-200]), ("empty", b""), ("text", b"not a graph")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(f"{name}.onnx", "compress", tmp_path / f"{name}.onnx", "--out", out)
    refused("none.onnx", "compress", tmp_path / "none.onnx", "--out", out)
    assert not out.exists()
    assert slimtask("compress", graph, "--align", 1, "--out", out, "--json", tmp_path / "o.json") == 0
    done = read(tmp_path / "o.json")
    assert done["certificate"]["holds"] is True
    assert [(cut["before"], cut["after"]) for cut in done["removed"]] == [(8, 5)]
    assert {tuple(tensor.dims) for tensor in onnx.load(out).graph.initializer} >= {(5, 3, 3, 3), (2, 5, 1, 1)}


def _graph() -> Any:
    """Return two convolutions, of which three channels in between are zero."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    first = random.normal(size=(8, 3, 3, 3)).astype(np.float32)
    first[:3] = 0
    second = random.normal(size=(2, 8, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], name="one"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "b"], ["y"], name="two"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 6, 6])],
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
