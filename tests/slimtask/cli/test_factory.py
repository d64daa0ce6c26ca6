"""Networks of the user's own: every way a factory, a weights file or a shape can be wrong is one sentence."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slimtask.cli.factory import input_shapes, load_factory, load_weights_
from slimtask.errors import InputError

MODULE = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(3, width)
    def forward(self, x):
        return self.layer(x)

ready = Net()
number = 3
def text(): return "net"
def needs(width): return Net(width)
def breaks(): raise RuntimeError("no such cable")
def leaves(): sys.exit("bye")
def lazy(): return nn.Sequential(nn.LazyLinear(3))
def late():
    import slimtask_test_helper
    return Net(slimtask_test_helper.WIDTH)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the name of a module in the working directory, another one for each test."""
    name = f"net_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "slimtask_test_helper.py").write_text("WIDTH = 6")
    monkeypatch.chdir(tmp_path)
    return name


def test_classes_functions_and_networks_make_networks(module: str) -> None:
    for name in ("Net", "late"):
        made = load_factory(f"{module}:{name}")()
        assert isinstance(made, nn.Module)
        assert not made.training
    assert made.layer.out_features == 6  # its own imports in the working directory work late, too
    factory = load_factory(f"{module}:ready")
    one, two = factory(), factory()
    assert one is not two
    assert torch.equal(one.layer.weight, two.layer.weight)


def test_files_make_networks_from_anywhere(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "random.py").write_text(MODULE)  # a name that is taken
    (tmp_path / "my net-2.py").write_text(MODULE)  # a name that is none
    monkeypatch.chdir(tmp_path / "elsewhere")
    import random

    for path in (f"{tmp_path}/{module}.py", f"../{module}.py", f"../{module}", "../random.py", "../my net-2.py"):
        for name in ("Net", "late"):  # late: its own imports in its folder work late, too
            assert isinstance(load_factory(f"{path}:{name}")(), nn.Module)
    assert sys.modules["random"] is random
    assert str(tmp_path) not in sys.path
    one, two = (load_factory(f"{path}:Net")() for path in (f"../{module}.py", f"{tmp_path}/{module}.py"))
    assert type(one) is type(two)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("number", r"calling it fails \(TypeError: 'int' object is not callable\)"),
        ("text", "returns a str, not a torch.nn.Module"),
        ("needs", "missing 1 required positional argument: 'width'.*without arguments"),
        ("breaks", r"fails \(RuntimeError: no such cable\)"),
        ("leaves", r"fails \(SystemExit: bye\)"),
        ("lazy", "'0.weight' has no shape yet"),
    ],
)
def test_factories_that_make_no_network(module: str, name: str, words: str) -> None:
    factory = load_factory(f"{module}:{name}")
    with pytest.raises(InputError, match=words):
        factory()


def test_paths_that_lead_nowhere(module: str, tmp_path: Path) -> None:
    for path in ("mynet", "mynet:", ":Net", ""):
        with pytest.raises(InputError, match=r"takes pkg\.mod:factory"):
            load_factory(path)
    for path in ("nets/mynet.py:Net", "nets/mynet:Net", "/nets/mynet.py:Net"):
        with pytest.raises(InputError, match=r"there is no file '/.*nets/mynet\.py'"):
            load_factory(path)
    with pytest.raises(InputError, match="no 'Nte'; did you mean 'Net'"):
        load_factory(f"{tmp_path}/{module}.py:Nte")
    with pytest.raises(InputError, match="no 'Nte'; did you mean 'Net'"):
        load_factory(f"{module}:Nte")
    for path in ("no_such_module:Net", "no_such_module.inner:Net", f"{module}.inner:Net"):
        with pytest.raises(InputError, match=r"no module 'no_such_module'|importing .* fails|no module"):
            load_factory(path)
    (tmp_path / "broken_syntax.py").write_text("def f(:")
    (tmp_path / "broken_import.py").write_text("import no_such_dependency")
    (tmp_path / "broken_exit.py").write_text("raise SystemExit(3)")
    for name, words in (("syntax", "SyntaxError"), ("import", "no_such_dependency"), ("exit", "SystemExit")):
        with pytest.raises(InputError, match=rf"importing 'broken_{name}' fails \(.*{words}"):
            load_factory(f"broken_{name}:Net")
        with pytest.raises(InputError, match=rf"importing '.*broken_{name}\.py' fails \(.*{words}"):
            load_factory(f"./broken_{name}.py:Net")
        assert f"broken_{name}" not in sys.modules


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x))


def state(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return Net().state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": {f"module.{name}": tensor for name, tensor in weights.items()}},
        lambda weights: {"model_state_dict": {f"module._orig_mod.{n}": tensor for n, tensor in weights.items()}},
        lambda weights: {name: tensor for name, tensor in weights.items() if "batches" not in name},
        lambda weights: {name: tensor.to(torch.float64) for name, tensor in weights.items()},
    ],
)
def test_state_dicts_in_every_usual_wrapping_load(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(state()), tmp_path / "w.pt")
    torch.manual_seed(0)
    model = Net()
    load_weights_(model, tmp_path / "w.pt")
    assert torch.equal(model.layer.weight, state()["layer.weight"])


def test_safetensors_load(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    model = Net()
    load_weights_(model, tmp_path / "w.safetensors")
    assert torch.equal(model.layer.weight, state()["layer.weight"])


def write(path: Path, kind: str) -> None:
    """Write a weights file that is wrong in the way ``kind`` says."""
    weights = state()
    changed: dict[str, Any] = {
        "nan": {**weights, "layer.bias": torch.tensor([0.0, float("nan")])},
        "shape": {**weights, "layer.weight": torch.zeros(3, 3)},
        "missing": {name: tensor for name, tensor in weights.items() if name != "layer.bias"},
        "unknown": {**weights, "layer.scale": torch.zeros(2)},
        "list": [1, 2],
        "number": {"layer.weight": 3},
        "nothing": {},
        "whole": Net(),
    }
    if kind in changed:
        torch.save(changed[kind], path)
        return
    torch.save(weights, path)
    whole = path.read_bytes()
    content = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello there", "code": pickle.dumps(os.system)}
    path.write_bytes(content[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "NaN or infinity in 'layer.bias'"),
        ("shape", r"'layer.weight' is \[3, 3\], the network's is \[2, 3\]"),
        ("missing", "they lack 'layer.bias'"),
        ("unknown", "they have unknown 'layer.scale'"),
        ("list", "hold a list, not a state dict"),
        ("number", "a int under 'layer.weight'"),
        ("nothing", "not a state dict"),
        ("whole", "without running code from the file.*convert it once"),
        ("empty", "an empty file"),
        ("cut", "not a whole torch file"),
        ("text", "not a whole torch file|no torch file"),
        ("code", "no torch file|without running code"),
    ],
)
def test_weights_that_do_not_load_leave_the_network_as_it_is(tmp_path: Path, kind: str, words: str) -> None:
    write(tmp_path / "w.pt", kind)
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=words) as caught:
        load_weights_(model, tmp_path / "w.pt")
    assert "w.pt" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(InputError, match=r"does not exist|is a folder"):
            load_weights_(Net(), path)
    (tmp_path / "bad.safetensors").write_bytes(b"{}" * 50)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_weights_(Net(), tmp_path / "bad.safetensors")


def test_shapes() -> None:
    assert input_shapes("1x3x224x224") == ((1, 3, 224, 224),)
    assert input_shapes(" 1X3x5, 2x2") == ((1, 3, 5), (2, 2))


@pytest.mark.parametrize(
    "text", ["", "x", "1x3xaxb", "1x-3x4", "1x0x4", "1x3x99999999999", "9999x9999x9999", "1x3x4,", "\uff11x3", "1.5x2"]
)
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--input"):
        input_shapes(text)


UNUSUAL = {
    "sparse_coo": lambda t: t.to_sparse(),
    "sparse_csr": lambda t: t.to_sparse_csr(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "meta": lambda t: t.to("meta"),
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda t: t.to(torch.float8_e5m2),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.filterwarnings("ignore")  # torch's, of what it is about to drop
def test_tensors_without_plain_values_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    model = nn.Linear(3, 2)
    torch.save(model.state_dict() | {"weight": UNUSUAL[kind](model.weight.detach())}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"hold a {kind} tensor under 'weight'"):
        load_weights_(model, tmp_path / "a.pt")


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    model = nn.Linear(300, 200)
    nn.init.zeros_(model.weight)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as read,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for part in read.infolist():
            out.writestr(part.filename, read.read(part))
    with pytest.raises(InputError, match="packed archive"):
        load_weights_(model, tmp_path / "b.pt")
    load_weights_(model, tmp_path / "a.pt")
