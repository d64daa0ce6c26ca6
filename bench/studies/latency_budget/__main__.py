"""What is left at 1.5, 2 and 3 times the speed: ``python -m slimtask.bench.studies.latency_budget``.

A three-task ResNet-34 with a feature pyramid is trained on CamVid, cut to equal measured speed-ups by a latency budget,
a FLOP budget and torch-pruning's group magnitude, tuned alike (same images, steps, rate and teacher) and scored on the
test split. A row is written as soon as it is there; a stopped study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimtask.bench.studies.harness import keep, known_rows, parser_of, run_study, say
from slimtask.bench.studies.latency_budget.cuts import WAYS, measured
from slimtask.bench.studies.latency_budget.network import PyramidNet
from slimtask.bench.studies.latency_budget.report import markdown, verdicts
from slimtask.bench.timing.environment import environment
from slimtask.checkpoint import read_safetensors, write_safetensors
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.compress.tuning import finetune
from slimtask.tasks import Preprocessing
from slimtask.train.batches import Batches
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.protocol import collate
from slimtask.train.evaluate import evaluate
from slimtask.train.losses import multi_task_loss
from slimtask.train.metrics import delta_m

SPEEDUPS = (1.5, 2.0, 3.0)
STEADY = {"presence": "weighted_f1"}
"""Metrics in place of the primary ones: mean average precision weighs eleven classes alike, some in a handful of
the 101 test frames, and swings by a third from one training of the dense network to the next."""
SIZE = Preprocessing(height=72, width=96)
BATCH, RATE = 8, 1e-3


class Study:
    """The data, and what of the study does not depend on how a network is cut."""

    def __init__(self, root: str, runs: Path, steps: int, tuning: int, threads: int) -> None:
        config = DataConfig(
            name="camvid", root=root, height=SIZE.height, width=SIZE.width, scale=(1.0, 1.6), cache=True
        )
        self.train, self.test = open_dataset(config, "train"), open_dataset(config, "test")
        self.tasks = self.train.tasks
        self.scored = [task.model_copy(update={"metric": STEADY.get(task.name, task.metric)}) for task in self.tasks]
        self.runs, self.steps, self.tuning, self.threads = runs, steps, tuning, threads
        self.example = torch.zeros(1, 3, SIZE.height, SIZE.width)

    def dense(self, seed: int) -> PyramidNet:
        """Return the trained dense network of a seed; its weights are kept in ``runs``."""
        model, path = PyramidNet(seed=seed), self.runs / f"dense-{seed}-{self.steps}.safetensors"
        if path.exists():
            model.load_state_dict(read_safetensors(path, "weights")[0])
            return model.eval()
        say(f"seed {seed}: training the dense network")
        batches = Batches(self.train, SIZE, batch=BATCH, seed=seed)
        finetune(model, [batches(step) for step in range(self.steps)], steps=self.steps, lr=RATE, loss=self._loss)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, model.state_dict(), {})
        return model.eval()

    def images(self) -> list[Tensor]:
        """Return 16 training images in two batches."""
        chosen = [index * len(self.train) // 16 for index in range(16)]
        return list(torch.split(collate([self.train[index] for index in chosen], SIZE)[0], 8))

    def row(self, way: str, seed: int, speedup: float) -> dict[str, Any]:
        """Return the row of one way to cut, one seed and one speed-up."""
        dense = self.dense(seed)
        say(f"seed {seed}, {speedup}x: {way}")
        cut = WAYS[way](dense, self.example, speedup, self.images(), self.threads)
        found = measured({"dense": dense, "cut": cut}, self.example, self.threads, 40)
        batches = Batches(self.train, SIZE, batch=BATCH, seed=1000 + seed)
        tuning = [batches(step) for step in range(self.tuning)]
        finetune(cut, tuning, steps=self.tuning, lr=RATE, loss=self._loss, teacher=dense, alpha=0.5)
        base, now = (evaluate(network.eval(), self.test, SIZE, extra="all").metrics for network in (dense, cut))
        ratio = found["dense"].ratio(found["cut"])
        return {
            "key": f"{way}/{speedup}/{seed}",
            "method": way,
            "seed": seed,
            "target_speedup": speedup,
            "speedup": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "metrics": now,
            "dense_metrics": base,
            "delta_m": delta_m(now, base, self.scored),
            "delta_m_primary": delta_m(now, base, self.tasks),
            "params": count_parameters(cut),
            "flops": count_flops(cut, self.example),
        }

    def _loss(self, outputs: Any, batch: Any) -> Tensor:
        return multi_task_loss(outputs, batch[1], self.tasks)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and write JSON and table after each."""
    parser = parser_of("latency_budget", __doc__)
    parser.add_argument("--root", default="data/camvid", help="folder of CamVid with train/ and val/")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--speedups", default=",".join(map(str, SPEEDUPS)))
    parser.add_argument("--steps", type=int, default=800, help="steps of training the dense network")
    parser.add_argument("--tuning", type=int, default=100, help="steps of tuning after the cut")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--runs", type=Path, default=Path("runs/latency_budget"))
    parser.add_argument("--json", type=Path, default=Path("docs/results/latency_budget.json"))
    options = parser.parse_args(arguments)
    study = Study(options.root, options.runs, options.steps, options.tuning, options.threads)
    settings = {
        "steps": options.steps,
        "tuning": options.tuning,
        "threads": options.threads,
        "size": [SIZE.height, SIZE.width],
        "scored": {task.name: task.metric for task in study.scored},
    }
    rows = {row["key"]: row for row in known_rows(options.json, settings=settings)}
    for seed in map(int, options.seeds.split(",")):
        for speedup in map(float, options.speedups.split(",")):
            for way in WAYS:
                if f"{way}/{speedup}/{seed}" not in rows:
                    row = study.row(way, seed, speedup)
                    rows[row["key"]] = row
                    keep(options.json, result_of(list(rows.values()), settings), markdown)
    result = result_of(list(rows.values()), settings)
    keep(options.json, result, markdown)
    print(markdown(result))


def result_of(rows: list[dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON-ready result."""
    return {
        "command": "make latency-budget",
        "settings": dict(settings),
        "environment": environment(),
        "verdicts": verdicts(rows),
        "rows": rows,
    }


if __name__ == "__main__":
    run_study("latency-budget", main)
