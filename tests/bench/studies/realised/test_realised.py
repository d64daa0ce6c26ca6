"""The realised-speed benchmark: rows and verdicts from known latencies, and one small network from end to end."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from slimtask.bench.studies.harness import known_rows
from slimtask.bench.studies.realised import __main__ as realised
from slimtask.bench.studies.realised.__main__ import Settings
from slimtask.bench.studies.realised.images import LabelledImages
from slimtask.bench.studies.realised.networks import (
    Cut,
    cut_as_chosen,
    cut_by_torch_pruning,
)
from slimtask.bench.timing.graphs import export, measure_graphs
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.compress.latency.prepared import Prepared
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.score.importance import score_channels
from slimtask.errors import InputError
from tests.meters import LawfulMeter

CONDITIONS = Conditions(
    backend="b", backend_version="1", device="d", precision="float32", threads=1, batch=1, shape=(3, 8, 8), run_id="r"
)


def timed(ms: float) -> Measurement:
    return Measurement(samples_ms=(ms,) * 5, conditions=CONDITIONS)


def made(flops: int, distance: float = 0.5) -> Cut:
    return Cut(model=nn.Identity(), flops=flops, parameters=7, kept=0.6, distance=distance)


def hits(right: int) -> torch.Tensor:
    return torch.arange(1000) < right


def row(
    dense_ms: float, their_ms: float, our_ms: float, our_flops: int = 250, our_distance: float = 0.5, right: int = 800
) -> dict:
    measured = {"dense": timed(dense_ms), "torch_pruning 0.5": timed(their_ms), "ours 0.5": timed(our_ms)}
    cuts = {"torch_pruning": made(250), "ours": made(our_flops, our_distance)}
    found = {"dense": hits(900), "torch_pruning 0.5": hits(800), "ours 0.5": hits(right)}
    return realised.row("net", 0.5, {"flops": 1000, "parameters": 9}, cuts, measured, found)


def test_realised_is_the_speed_up_over_the_flop_ratio() -> None:
    one = row(8.0, 4.0, 2.5)
    assert one["ours"]["flop_ratio"] == 4.0
    assert one["ours"]["speedup"] == pytest.approx(3.2)
    assert one["ours"]["realised"] == pytest.approx(0.8)
    assert one["torch_pruning"]["realised"] == pytest.approx(0.5)
    assert one["ahead"]
    assert one["never_slower"]


def test_ahead_needs_speed_realised_speed_outputs_no_farther_and_accuracy_not_behind() -> None:
    assert not row(8.0, 4.0, 4.1)["ahead"]
    assert not row(8.0, 4.0, 3.9, our_flops=200)["ahead"]  # faster, but by fewer FLOPs than its speed repays
    assert not row(8.0, 4.0, 2.5, our_distance=0.6)["ahead"]  # faster, and farther from the dense outputs
    assert not row(8.0, 4.0, 2.5, right=790)["ahead"]  # ten of a thousand images fewer, none more: behind
    assert row(8.0, 4.0, 2.5, right=799)["ahead"]  # one image: its interval holds 0
    assert row(8.0, 4.0, 2.5, right=810)["accuracy_gain"]["mean"] == pytest.approx(0.01)
    assert not row(8.0, 4.0, 8.1)["never_slower"]


def test_the_verdicts_hold_only_if_every_row_does() -> None:
    good, bad = row(8.0, 4.0, 2.0), row(8.0, 4.0, 9.0)
    result = realised.report([good, bad], "make realised", {})
    assert (result["ahead_everywhere"], result["never_slower"]) == (False, False)
    result = realised.report([good, good], "make realised", {})
    assert (result["ahead_everywhere"], result["never_slower"]) == (True, True)
    assert json.loads(json.dumps(result, allow_nan=False))["rows"][0]["model"] == "net"
    assert "| net | 50% | ours | 4.00 | 4.00 [4.00, 4.00] | 1.00 |" in realised.markdown(result)


@pytest.fixture
def small() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval(), torch.randn(
        1, 3, 16, 16
    )


@pytest.mark.filterwarnings("ignore")
def test_both_sides_cut_to_the_same_flops_and_run(
    small: tuple[nn.Module, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, example = small
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timer = lambda shape, n, m: 0.01 + shape.flops(-(-n // 16) * 16, -(-m // 16) * 16) / 1e7  # noqa: E731
    what = Prepared(model, example, LawfulMeter(layer_ms=timer))
    judge, scores = what.judge(None), score_channels(model, what.groups, "l2")
    theirs = cut_by_torch_pruning(what, judge, 0.5)
    assert theirs.model(example).shape == (1, 10)
    modules = {spec.module for spec in what.specs}
    proposals = what.proposals(scores, {"all": 5.0}, paths={"all": modules}, judge=judge)
    ours = cut_as_chosen(what, judge, proposals(lambda chooser: chooser.for_flops(theirs.flops)), theirs.flops)
    assert ours.flops <= theirs.flops
    assert ours.flops == count_flops(ours.model, example)
    assert ours.parameters == count_parameters(ours.model)
    assert 0 < ours.distance <= theirs.distance
    assert 0 < ours.kept < 1
    assert cut_by_torch_pruning(what, judge, 0.0).kept == 1.0
    for side, one in (("theirs", theirs), ("ours", ours)):
        path = export(one.model, example, tmp_path / f"{side}.onnx")
        assert measure_graphs({"dense": path}, threads=1, rounds=2)["dense"].median_ms > 0


def test_labelled_images_are_read_learned_and_scored(tmp_path: Path) -> None:
    """Two classes told by their brightness: a small network learns them from the batches, and the hits say so."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split, count in (("train", 40), ("test", 10)):
            for name, level in (("bright", 200), ("dark", 50)):
                for number in range(count):
                    stream = io.BytesIO()
                    Image.new("RGB", (8, 8), (level + number, level, level)).save(stream, "PNG")
                    archive.writestr(f"{split}/{name}/{number:04}.png", stream.getvalue())
    data = LabelledImages(path)
    assert (data.classes, data.train[0].shape, data.calibration(4).shape) == (
        ["bright", "dark"],
        (80, 3, 8, 8),
        (4, 3, 8, 8),
    )
    one, other = next(data.batches(0)), next(data.batches(0))
    assert torch.equal(one[0], other[0])
    assert one[0].shape == (64, 3, 8, 8)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    data.fit(network, 30, seed=0)
    assert data.hits(network).float().mean() == 1
    for bad in (tmp_path / "none.zip", Path(__file__)):
        with pytest.raises(InputError, match="is not a ZIP"):
            LabelledImages(bad)


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = Settings(threads=1, rounds=2, table_seconds=1.0, training=1, tuning=1)
    (tmp_path / "r.json").write_text(json.dumps({"settings": asdict(settings), "rows": [{"model": "net"}]}))
    assert known_rows(tmp_path / "r.json", settings=asdict(settings)) == [{"model": "net"}]
    assert known_rows(tmp_path / "r.json", settings=asdict(replace(settings, tuning=2))) == []
    assert known_rows(None) == known_rows(tmp_path / "none.json") == []
