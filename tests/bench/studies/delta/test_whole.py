from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from slimtask.bench.studies.delta.__main__ import main
from slimtask.bench.studies.delta.gpu_whole import block_subject, measure_whole
from slimtask.bench.studies.delta.networks import BASE, Maps, SharedBlock, Vits
from slimtask.bench.studies.delta.whole import BASE_FED, _base_fed_blocks, own_tokens
from slimtask.compress.structures.delta import Execution
from slimtask.files import read_json


@pytest.fixture
def vits() -> Vits:
    torch.manual_seed(0)
    return Vits("vit_tiny", tasks=3, first=0, density=0.05, depth=2)


def test_a_base_fed_block_is_its_definition(vits: Vits) -> None:
    x = torch.randn(1, 12, vits.base.trunk.out_channels)
    shared = SharedBlock(vits.shared(BASE_FED, batched=False), own=False).double()
    truth = _base_fed_blocks([vits.merged_trunk(task).encoder.layers[-1] for task in vits.names], x)
    for found, exact in zip(shared(x.double()), truth, strict=True):
        torch.testing.assert_close(found, torch.from_numpy(exact), rtol=0, atol=1e-10)


def test_behind_a_shared_prefix_every_task_is_its_merged_trunk() -> None:
    torch.manual_seed(0)
    vits = Vits("vit_tiny", tasks=2, first=1, density=0.05, depth=2)
    x = torch.randn(1, 3, 16, 24)
    maps = Maps(vits.shared(Execution(), batched=False).trunk, vits.names)(x)
    for task, found in zip(vits.names, maps, strict=True):
        torch.testing.assert_close(found, vits.merged_trunk(task)(x), rtol=1e-5, atol=1e-5)
    assert (maps[1] - maps[0]).abs().max() > 1e-4
    assert (vits.names[0], vits.prefix, vits.depth) == (BASE, 1, 2)


def test_own_tokens_differ_in_the_share_of_rows_asked_for() -> None:
    x = torch.randn(1, 20, 8)
    own = own_tokens(x, 2, 0.1)
    assert [int((each != x).any(dim=2).sum()) for each in own] == [2, 2]
    assert own_tokens(x, 2, 0.0) == []


class Still:
    """A clock that runs what it is given once and says that everything took as long."""

    def capture(self, run):
        return run

    def check(self, error=None):
        pass

    def time(self, replays, *, cold):
        for sets in replays.values():
            sets[0]()
        return {name: [2.0, 2.0, 2.0] for name in replays}


def test_the_blocks_of_a_gpu_measurement_run_and_say_their_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, forms = block_subject("vit_tiny", 2, 12)
    assert len(dense) == 2
    assert forms["rows 0.1"].rows == 0.1
    assert forms["base-fed"].flop_ratio > forms["rows 0.3"].flop_ratio > 1
    monkeypatch.setattr(
        "slimtask.bench.studies.delta.gpu_whole.vit_subject", lambda *_: pytest.fail("no time was left")
    )
    ticks = iter([0.0, 0.0, 9.0])
    monkeypatch.setattr("slimtask.bench.studies.delta.gpu_whole.time.monotonic", lambda: next(ticks))
    outcome = measure_whole(
        Still(), seconds=5.0, trunk="vit_tiny", model="tiny", tokens=12, tasks=2, device="cpu", dtype=torch.float32
    )
    assert outcome.failed == []
    assert outcome.left_out == ["tiny vit"]
    assert {row["speedup"] for row in outcome.rows} == {1.0}
    assert all(row["max_rel_error"] == 0.0 for row in outcome.rows)
    assert {row["form"] for row in outcome.rows} == set(forms)


def test_wrong_arguments_end_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--threads", "0"])
    assert ended.value.code == 2
    assert "must be positive" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_run_writes_json_page_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["delta"])
    main(["--quick", "--threads", "1", "--rounds", "3", "--json", str(tmp_path / "delta.json")])
    made = read_json(tmp_path / "delta.json", "result")
    assert {row["layer"] for row in made["rows"]} == {"mlp", "attention", "block", "vit", "fc1"}
    assert all(row["max_rel_error"] < 1e-5 for row in made["rows"] if not ("form" in row and "rows" in row["form"]))
    assert made["left_out"] == []
    assert (tmp_path / "delta.md").is_file()
    assert (tmp_path / "delta.svg").is_file()
