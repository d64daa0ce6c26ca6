"""A network prepared for latency budgets: what is measured of it, and the images that it is judged on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.latency.prepared import Prepared
from slimtask.errors import InputError
from tests.meters import LawfulMeter

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


SEEN: list[tuple[int, ...]] = []


class Seen(nn.Module):
    """Notes the shapes that it and its copies run on; it may insist on a batch of one."""

    def __init__(self, alone: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.alone = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), alone

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(tuple(x.shape))
        y = self.b(self.a(x).relu())
        return y.view(1, 2, *x.shape[2:]) if self.alone else y


def prepared(model: nn.Module, **more: object) -> Prepared:
    return Prepared(model.eval(), IMAGE, LawfulMeter(layer_ms=lambda *_: 1.0), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("alone", "shapes"), [(False, [(8, 3, 8, 8)]), (True, [(8, 3, 8, 8)] + 8 * [(1, 3, 8, 8)])])
def test_without_images_eight_of_noise_are_looked_at_one_by_one_if_need_be(
    alone: bool, shapes: list[tuple[int, ...]]
) -> None:
    ready = prepared(Seen(alone))
    SEEN.clear()
    ready.judge(None)
    assert shapes == SEEN


def test_layers_are_measured_once_and_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    ready = prepared(Seen(), progress=lambda *step: told.append(step))
    assert {spec.module for spec in ready.specs} == {"a", "b"}
    assert {name for name, _, _ in told} == {"measuring layers"}
    assert told[-1][1] == told[-1][2] > 0


def test_a_network_of_which_nothing_may_go_is_refused_before_anything_is_measured() -> None:
    meter = LawfulMeter(layer_ms=lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="0 of 4 channels may be removed"):
        Prepared(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), IMAGE, meter)
