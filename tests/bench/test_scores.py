"""A bundle whose outputs are decided already scores as the network that decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimtask.bench.scores import score_bundle
from slimtask.export.exporter import export_bundle
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.scores import score

SIZE = Preprocessing(height=6, width=8)
TASKS = (TaskSpec(name="classes", kind="segmentation", channels=3), TaskSpec(name="depth", kind="depth", channels=1))


class Pictures:
    """Noise with random classes and depths."""

    tasks = TASKS

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        image, classes = torch.rand(3, 6, 8, generator=draw), torch.randint(0, 3, (6, 8), generator=draw)
        return {"image": image, "classes": classes, "depth": 1 + torch.rand(1, 6, 8, generator=draw)}


class Decides(nn.Module):
    """Gives class numbers, or with ``logits`` what they are the largest of."""

    tasks = TASKS

    def __init__(self, *, logits: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.logits, self.maps = logits, nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        maps = self.maps(x)
        classes = maps[:, :3] if self.logits else maps[:, :3].argmax(dim=1, keepdim=True)
        outputs = {"classes": classes, "depth": maps[:, 3:].exp()}
        return outputs if tasks is None else {name: outputs[name] for name in tasks}


def test_class_numbers_of_a_bundle_score_as_the_logits_of_the_network(tmp_path: Path) -> None:
    export_bundle(Decides(logits=False).eval(), tmp_path / "b", preprocessing=SIZE, paths=("fused",))
    done = score_bundle(tmp_path / "b", Pictures(), path="fused", resamples=10, batch=3)
    assert done.served_by == dict.fromkeys(("classes", "depth"), "fused.onnx, fp32")
    truth = score(Decides(logits=True), Pictures(), SIZE, resamples=10)
    for task, metrics in truth.estimates().items():
        for name, one in metrics.items():
            found = vars(done.scores.estimates()[task][name])
            assert found == pytest.approx(vars(one), rel=1e-4)
