"""Further inputs by --also, and code of the user's that raises: one sentence, whatever the verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slimtask.checkpoint import Checkpoint

MODULE = """
from torch import nn

class Sizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.h, self.aux = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)
    def forward(self, x):
        y = self.a(x).relu()
        return self.aux(y) if x.shape[-1] > 20 else self.h(y)

class Raises(Sizes):
    def forward(self, x): raise KeyError("no such feature")

class Recurses(Sizes):
    def forward(self, x): return self.forward(x)

class NoEval(Sizes):
    def train(self, mode=True): raise ZeroDivisionError("cannot switch")

class NoLoading(Sizes):
    def load_state_dict(self, *arguments, **keywords): raise ValueError("not mine")
"""
BASE = ("--input", "1x3x16x16")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the networks to a module in the working directory and return its name."""
    name = f"also_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_inspect_names_what_no_input_reaches(
    slimtask: Callable[..., int], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slimtask("inspect", "--model", f"{module}:Sizes", *BASE, "--json", "found.json") == 0
    assert "not reached by the example: aux (left as they are; give --also" in capsys.readouterr().out
    assert json.loads(Path("found.json").read_text())["unreached"] == ["aux"]


@pytest.mark.parametrize("also", ["1x3x16", "1x3x8x8,1x3x8x8", "many"])
@pytest.mark.parametrize("verb", ["inspect", "compress"])
def test_a_further_input_that_does_not_fit_is_one_sentence(
    verb: str, also: str, slimtask: Callable[..., int], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ("--keep", 0.5, "--out", "out.safetensors") if verb == "compress" else ()
    assert slimtask(verb, "--model", f"{module}:Sizes", *BASE, "--also", also, *rest) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("out.safetensors").exists()


def test_a_checkpoint_remembers_further_inputs(tmp_path: Path) -> None:
    from slimtask.checkpoint import Architecture

    plain = Checkpoint(
        weights={},
        architecture=Architecture(name="my:net", arguments={}),
        tasks=(),
        preprocessing=None,
        inputs=((1, 3, 16, 16),),
    )
    plain.save(tmp_path / "plain.safetensors")
    assert b"also" not in (tmp_path / "plain.safetensors").read_bytes()
    plain.with_changes(also=(((1, 3, 24, 24),),)).save(tmp_path / "also.safetensors")
    loaded = Checkpoint.load(tmp_path / "also.safetensors")
    assert loaded.also == (((1, 3, 24, 24),),)
    assert [tuple(x.shape) for x in loaded.further()] == [(1, 3, 24, 24)]


@pytest.mark.parametrize("network", ["Raises", "Recurses", "NoEval", "NoLoading"])
def test_code_that_raises_is_one_sentence(
    network: str, slimtask: Callable[..., int], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", f"{module}:{network}", *BASE, "--keep", 0.5, "--out", "out.safetensors")
    assert slimtask("compress", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("slimtask: ")
    assert said.count("\n") == 1
