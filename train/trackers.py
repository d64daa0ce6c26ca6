"""Experiment trackers that a run may also write to, if they are installed and the recipe names them: wandb, MLflow.

Being installed is not enough: either may send what it is given to another machine, which nobody should get unasked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from slimtask.errors import InputError
from slimtask.files import read_json, write_json

_RUNS = "trackers.json"


@runtime_checkable
class Tracker(Protocol):
    """One run in an experiment tracker; ``run`` is the id it goes on under after an interruption."""

    run: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars for ``step``."""
        ...

    def close(self) -> None:
        """End the run."""
        ...


class Wandb:
    """A run of the project "slimtask" on Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], run: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project="slimtask", name=name, dir=str(folder), config=dict(settings), id=run, resume="allow"
        )
        self.run = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars for ``step``."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Mlflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME and MLFLOW_TRACKING_URI choose."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], run: str | None) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        if run is None:
            experiment = mlflow.set_experiment(mlflow.environment_variables.MLFLOW_EXPERIMENT_NAME.get() or "slimtask")
            run = self._client.create_run(experiment.experiment_id, run_name=name).info.run_id
            for key, value in _flat(settings):
                self._client.log_param(run, key, value)
        self.run = str(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars for ``step``."""
        for name, value in values.items():
            self._client.log_metric(self.run, name, value, step=step)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self.run)


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], str | None], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def open_trackers(names: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any]) -> list[Tracker]:
    """Return the trackers called ``names``, each continuing the run that ``folder`` remembers, if there is one.

    ``settings`` is the recipe. Raises InputError if one is not installed.
    """
    if not names:
        return []
    known = read_json(folder / _RUNS, "the run ids") if (folder / _RUNS).exists() else {}
    trackers: list[Tracker] = []
    for one in names:
        try:
            trackers.append(TRACKERS[one](folder, name, settings, known.get(one)))
        except ImportError:
            raise InputError(
                f"train.trackers names {one}, which is not installed; pip install {one}, or leave it out (TensorBoard "
                "events and metrics.jsonl are always written)."
            ) from None
    write_json(folder / _RUNS, {one: tracker.run for one, tracker in zip(names, trackers, strict=True)})
    return trackers


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return flat
