"""Trackers get the scalars of the log under one run id, also after an interruption; a missing one is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from slimtask.errors import InputError
from slimtask.train import trackers
from slimtask.train.history import History
from slimtask.train.trackers import open_trackers


class Noted:
    """A tracker that keeps what it is told."""

    opened: ClassVar[list[tuple[str, str | None]]] = []

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], run: str | None) -> None:
        self.opened.append((name, run))
        self.run = run or "run-1"
        self.records: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.records.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def test_a_tracker_gets_the_scalars_and_continues_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Noted)
    monkeypatch.setattr(Noted, "opened", [])
    (tracker,) = open_trackers(("wandb",), tmp_path, "scenes", {"train": {"lr": 0.1}})
    history = History(tmp_path, trackers=[tracker])
    history.record(3, "train", {"loss": 1.5, "sparsity": {"groups": 0.5}, "bad": float("nan")})
    history.close()
    assert isinstance(tracker, Noted)
    assert tracker.records == [(3, {"train/loss": 1.5, "train/sparsity/groups": 0.5})]
    assert tracker.closed
    open_trackers(("wandb",), tmp_path, "scenes", {})
    assert Noted.opened == [("scenes", None), ("scenes", "run-1")]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "run-1"}


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(InputError, match=r"train\.trackers names mlflow, which is not installed"):
        open_trackers(("mlflow",), tmp_path, "scenes", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_trackers_take_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed; it is an optional tracker")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for first in (0, 2):
        (tracker,) = open_trackers((name,), tmp_path, "scenes", {"train": {"lr": 0.1}})
        tracker.log(first, {"train/loss": 1.5, "val/normals/within_11.25": 0.5})
        tracker.close()
    if name == "mlflow":
        import mlflow

        run = mlflow.MlflowClient().get_run(tracker.run)
        assert run.data.params["train.lr"] == "0.1"
        assert len(mlflow.MlflowClient().get_metric_history(tracker.run, "train/loss")) == 2
    else:
        assert list((tmp_path / "wandb").iterdir())
