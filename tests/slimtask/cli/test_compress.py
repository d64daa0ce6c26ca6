"""`compress --latency-ms` and `compress --per-task`, from the command line to the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.cli.latency import parse_budgets
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing
from slimtask.train.models import MultiTaskNet

CONDITIONS = Conditions(
    backend="fake", backend_version="0", device="none", precision="fp32", threads=1, batch=1, shape=(3, 64, 64)
)


@pytest.fixture
def saved(small_net: Callable[..., MultiTaskNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small dense checkpoint on disk, in a working directory and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = small_net()
    Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=64, width=64),
    ).save("net.safetensors")
    return tmp_path / "net.safetensors"


def test_budgets_are_read_or_refused() -> None:
    assert parse_budgets("8") == {"all": 8.0}
    assert parse_budgets("all=12, depth=5,depth+edges=7") == {"all": 12.0, "depth": 5.0, "depth+edges": 7.0}
    for text in ("", "0", "-1", "nan", "fast", "depth=", "=3", "1,2", "all=1,all=2"):
        with pytest.raises(InputError, match="--latency-ms takes 8"):
            parse_budgets(text)


def test_a_network_is_cut_to_a_measured_budget(
    slimtask: Callable[..., int], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slimtask.bench.layers import meter
    from slimtask.bench.layers import table as latency_table

    def timed(graphs: dict[str, Path], *, threads: int) -> dict[str, Measurement]:
        sizes = {key: path.stat().st_size * 1e-5 for key, path in graphs.items()}
        return {key: Measurement(samples_ms=(ms,) * 5, conditions=CONDITIONS) for key, ms in sizes.items()}

    monkeypatch.setattr(meter, "measure_graphs", timed)
    monkeypatch.setattr(latency_table, "time_layer", lambda shape, i, o, **_: 1e-5 * (i + 16) * (o + 16))
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--json", "small.json"]
    dense = saved.stat().st_size * 1e-5
    assert slimtask(*words, "--latency-ms", f"depth={0.7 * dense}", "--align", "4") == 0
    result = json.loads(Path("small.json").read_text())
    assert [row["path"] for row in result["paths"]] == ["depth"]
    assert all(row["measured_ms"] <= row["budget_ms"] for row in result["paths"])
    smaller = rebuild(Checkpoint.load("small.safetensors"))
    assert sum(p.numel() for p in smaller.parameters()) == result["after"]["params"] < result["before"]["params"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--latency-ms", "8", "--flops", "0.5"], "two ways"),
        (["--latency-ms", "8", "--vote", "all"], "--vote is decided by the integer program"),
        (["--latency-ms", "sound=8"], "no path 'sound'"),
        (["--latency-ms", "8", "--on", "abacus"], "one backend with a layer table"),
        (["--per-task", "--align", "auto"], "--align auto takes counts off a"),
        (["--flops", "-1", "--align", "auto"], "--flops -1 is no budget"),
        (["--masks", "m.safetensors"], "add --per-task"),
        (["--per-task", "--keep", "0.5"], "leave the budget out"),
        (["--per-task", "--masks", "m", "--policy", "p"], "two structures"),
        (["--per-task", "--sets", "depth+sound"], "no task 'sound'"),
    ],
)
def test_wrong_words_are_one_sentence(
    slimtask: Callable[..., int], saved: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slimtask("compress", "net.safetensors", "--out", "out", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("out").exists()


def test_counts_come_off_the_measured_staircase(
    slimtask: Callable[..., int], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The FLOPs stay within the budget, and the graph that was cut is no slower than the dense one."""
    from slimtask.bench.layers import meter
    from slimtask.bench.layers import table as latency_table

    def timed(graphs: dict[str, Path], *, threads: int) -> dict[str, Measurement]:
        sizes = {key: path.stat().st_size * 1e-5 for key, path in graphs.items()}
        return {key: Measurement(samples_ms=(ms,) * 5, conditions=CONDITIONS) for key, ms in sizes.items()}

    def blocks(shape: object, inputs: int, outputs: int, **_: object) -> float:
        return 1e-3 * (-(-inputs // 8)) * (-(-outputs // 8)) * 64

    monkeypatch.setattr(meter, "measure_graphs", timed)
    monkeypatch.setattr(latency_table, "time_layer", blocks)
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--json", "small.json"]
    assert slimtask(*words, "--flops", "0.6", "--align", "auto") == 0
    result = json.loads(Path("small.json").read_text())
    assert result["after"]["flops"] <= 0.6 * result["before"]["flops"]
    assert result["paths"][0]["measured_ms"] <= result["paths"][0]["dense_ms"]


def test_a_network_for_each_task_and_their_table(slimtask: Callable[..., int], saved: Path) -> None:
    """Each task keeps half of a hidden layer, depth another half than the rest."""
    dense = rebuild(Checkpoint.load(saved))
    name = next(n for n, p in dense.trunk.named_parameters() if p.ndim == 4 and ".residual.0." in n)
    shape = dense.trunk.get_parameter(name).shape
    first = torch.zeros(shape, dtype=torch.bool)
    first[: shape[0] // 2] = True
    names = [task.name for task in dense.tasks]
    Masks(shared={}, per_task={task: {f"trunk.{name}": first if task == "depth" else ~first} for task in names}).save(
        "masks.safetensors"
    )
    words = ["compress", "net.safetensors", "--per-task", "--masks", "masks.safetensors", "--align", "1"]
    assert slimtask(*words, "--sets", "depth+edges", "--finetune", 0, "--out", "per_task") == 0
    table = json.loads(Path("per_task/table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["union", *names, "depth+edges"]
    rows = {row["name"]: row for row in table["rows"]}
    assert rows["depth"]["params"] < rows["depth+edges"]["params"] < rows["union"]["params"]
    alone = rebuild(Checkpoint.load("per_task/depth.safetensors"))
    x = torch.randn(1, 3, 64, 64)
    masked = dense
    masked.trunk.get_parameter(name).data *= first
    assert set(alone(x)) == {"depth"}
    assert torch.allclose(alone(x)["depth"], masked(x)["depth"], rtol=1e-4, atol=1e-5)
