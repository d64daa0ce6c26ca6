"""`slimtask costs`, and `export` that goes by them or takes every delta node it can."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.edits.deltas import install_deltas_
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.delta import Change, Delta, digest
from slimtask.compress.structures.patterns import Block, Pattern, WholeTensor
from slimtask.export.shared import SharedViT
from slimtask.export.verify import verify_bundle
from slimtask.kernels.costs import Costs
from slimtask.kernels.device import Device
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.models import multitask_net
from slimtask.train.models.vit import VITS, ViTShape

Run = Callable[..., int]
TASKS = (TaskSpec(name="depth", kind="depth", channels=1), TaskSpec(name="edges", kind="edges", channels=1))
ARGUMENTS = {"trunk": "vit_tiny", "head": "light"}
QKV = "trunk.encoder.layers.encoder_layer_0.self_attention.in_proj_weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with delta.safetensors, in which "edges" changes one block of 64 x 64 of three in qkv, fed its own."""
    made = tmp_path_factory.mktemp("costs")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setitem(VITS, "vit_tiny", ViTShape(patch=8, depth=1, heads=2, head_width=32, grid=(4, 4)))
        saved(made / "delta.safetensors", QKV, Block(), [False, True, False])
        yield made


def saved(path: Path, name: str, pattern: Pattern, kept: list[bool]) -> Path:
    """Return a checkpoint in which "edges" changes the ``kept`` units of one parameter, fed its own stream."""
    torch.manual_seed(0)
    net = multitask_net(tasks=TASKS, **ARGUMENTS).eval()
    weight = dict(net.named_parameters())[name]
    mask = pattern.expand(torch.tensor(kept), tuple(weight.shape))
    changes = {name: Change.of(pattern, 0.3 * torch.randn(weight.shape) * mask, mask)}
    edit = install_deltas_(net, [Delta(task="edges", base=digest(net, changes), changes=changes)])
    Checkpoint(
        weights=net.state_dict(),
        architecture=Architecture(name="multitask-net", arguments=ARGUMENTS),
        tasks=TASKS,
        preprocessing=Preprocessing(height=32, width=32),
        edits=(edit.model_dump(mode="json"),),
    ).save(path)
    return path


@pytest.fixture
def whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose sub-task changes the patch embedding."""
    monkeypatch.chdir(tmp_path)
    return saved(tmp_path / "whole.safetensors", "trunk.conv_proj.weight", WholeTensor(), [True])


def delta_nodes(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph).graph.node if node.domain == "slimtask"]


GPU = Device(backend="cuda", name="NVIDIA H200", sm=90, versions=(("cuda-bindings", "13"), ("triton", "3.6")))


def test_it_says_what_it_measured(
    slimtask: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"dense": 2.0, "batched": 3.0, "blocks-torch": 0.5, "vectors": 4.0, "csr": 5.0}
    monkeypatch.setattr(
        "slimtask.bench.layers.delta_costs.interleaved_ms", lambda runs: {name: times[name] for name in runs}
    )
    out, result = tmp_path / "costs", tmp_path / "costs.json"
    assert slimtask("costs", folder / "delta.safetensors", "--out", out, "--json", result) == 0
    assert "takes those of a GPU" in " ".join(capsys.readouterr().out.split())
    found = json.loads(result.read_text())
    assert [each["fastest"] for each in found["problems"]] == ["blocks-torch"] * 2
    assert [each["tasks"] for each in found["problems"]] == [2, 1]  # with its base, and alone
    assert [each["tokens"] for each in found["problems"]] == [17, 17]  # images of 32 x 32, patches of 8
    assert all(each["density"] == pytest.approx(1 / 3) for each in found["problems"])
    (file,) = out.iterdir()
    assert found["file"] == str(file)
    assert len(Costs.read(file).entries) == 2 * 2 + 3  # merged weights by tasks; a delta form's time is without them
    assert slimtask("export", folder / "delta.safetensors", "--out", tmp_path / "bundle", "--costs", file) == 2
    assert "of PyTorch's operators on a CPU" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("faster", [True, False])
def test_costs_of_a_gpu_decide_what_is_exported(faster: bool, slimtask: Run, folder: Path, tmp_path: Path) -> None:
    file, bundle = gpu_costs(folder, tmp_path, "float16", {"blocks-cuda": 0.5 if faster else 9.0}), tmp_path / "bundle"
    words = ["--out", bundle, "--paths", "per-task", "--precision", "fp16", "--costs", file]
    assert slimtask("export", folder / "delta.safetensors", *words) == 0
    assert delta_nodes(bundle / "edges.onnx") == (["DeltaBlocks"] if faster else [])


def test_costs_that_are_of_no_layer_are_refused(
    slimtask: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gpu_costs(folder, tmp_path, "float16", {"blocks-cuda": 0.5})
    assert slimtask("export", folder / "delta.safetensors", "--out", tmp_path / "bundle", "--costs", file) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "none of the costs of NVIDIA H200 (sm90) is of a layer of this network in float32 on 17 tokens" in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("words", [("export", "--out", "bundle", "--delta-nodes"), ("costs",)])
def test_where_no_layer_can_the_reason_is_said(
    words: tuple[str, ...], slimtask: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Path
) -> None:
    """The delta is a whole tensor of the patch embedding, so that the task's stream differs from the start."""
    assert slimtask(words[0], whole, *words[1:]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "no layer of this network can run as base and delta, for most because: its own stream differs" in error
    assert not Path("bundle").exists()


def gpu_costs(folder: Path, tmp_path: Path, dtype: str, times: dict[str, float]) -> Path:
    """Return a file in which dense products of the checkpoint's layer take 2 ms on a GPU, and others ``times``."""
    network = rebuild(Checkpoint.load(folder / "delta.safetensors"))
    costs = Costs(device=GPU)
    for tasks in (None, ["edges"]):
        shared = SharedViT.of(network, tasks, device=GPU, costs=Costs(device=GPU), dtype=dtype, size=(32, 32))
        (choice,) = [step.choice for branch in shared.trunk.each() for step in branch.steps if step.choice is not None]
        for name, ms in {"dense": 2.0, "batched": 2.0, **times}.items():
            costs.add(name, choice.problem, ms)
    return costs.save(tmp_path / "costs")


def test_its_help_says_where_the_file_lies(
    slimtask: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert slimtask("costs", "--help") == 0
    assert "~/.cache/slimtask/costs" in capsys.readouterr().out


def test_it_times_for_real(slimtask: Run, folder: Path, tmp_path: Path) -> None:
    assert slimtask("costs", folder / "delta.safetensors", "--out", tmp_path, "--json", tmp_path / "r.json") == 0
    for problem in json.loads((tmp_path / "r.json").read_text())["problems"]:
        assert {"dense", "batched", "blocks-torch", "csr"} <= set(problem["ms"])
        assert all(0 < ms < 1000 for ms in problem["ms"].values())


def test_every_layer_that_can_is_a_node(slimtask: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert slimtask("export", folder / "delta.safetensors", "--out", out, "--delta-nodes", "--precision", "fp16") == 0
    assert [delta_nodes(out / f"{role}.onnx") for role in ("fused", "edges", "depth")] == [
        ["DeltaBlocks"],
        ["DeltaBlocks"],
        [],
    ]
    assert verify_bundle(out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--delta-nodes", "--merged"], "--merged stores whole weights, --delta-nodes and --costs keep some as deltas"),
        (["--delta-nodes", "--costs", "c.json"], "choose one of them"),
        (["--costs", "none.json"], "no file of costs 'none.json'"),
        (["--costs", "folder"], "'folder' is a folder"),
        (["--costs", "bad.json"], "the costs 'bad.json' are damaged"),
    ],
)
def test_choices_that_do_not_go_are_one_sentence(
    words: list[str],
    sentence: str,
    slimtask: Run,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("bad.json").write_text('{"schema": 1, "device": {"backend": "cpu"}, "entries": {}}')
    assert slimtask("export", folder / "delta.safetensors", "--out", "bundle", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("bundle").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--on", "tpu"], "cpu or cuda"), (["--on", "cuda"], "no GPU"), (["--precision", "int8"], "fp32, fp16, bf16")],
)
def test_costs_of_what_is_not_here_are_refused(
    words: list[str], sentence: str, slimtask: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert slimtask("costs", folder / "delta.safetensors", *words) == 2
    assert sentence in capsys.readouterr().err


def test_what_has_no_deltas_and_what_is_no_folder_is_named(
    slimtask: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = multitask_net(tasks=TASKS, trunk="resnet18", head="light", width=0.125)
    Checkpoint(
        weights=net.state_dict(),
        architecture=Architecture(
            name="multitask-net", arguments={"trunk": "resnet18", "head": "light", "width": 0.125}
        ),
        tasks=TASKS,
        preprocessing=Preprocessing(height=32, width=32),
    ).save(tmp_path / "plain.safetensors")
    assert slimtask("costs", tmp_path / "plain.safetensors") == 2
    assert "plain.safetensors' has no deltas" in " ".join(capsys.readouterr().err.split())
    assert slimtask("costs", folder / "delta.safetensors", "--out", tmp_path / "plain.safetensors") == 2
    assert "plain.safetensors' is a file" in " ".join(capsys.readouterr().err.split())
