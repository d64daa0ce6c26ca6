"""The meter on this processor: the graphs that it deploys compute the networks, and go away; their times are times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from slimtask.bench.layers.meter import OnnxRuntimeMeter, meter_of
from slimtask.compress.latency.table import LayerShape
from slimtask.errors import InputError

X = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def net(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2, 3, padding=1)).eval()


def test_what_is_timed_is_the_network_as_it_is_deployed_and_it_goes_away() -> None:
    networks = {"small": net(4), "large": net(96)}
    meter = OnnxRuntimeMeter(threads=1)
    with meter.artifacts(networks, X) as artifacts:
        for name, path in artifacts.items():
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (made,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
            np.testing.assert_allclose(made, networks[name](X).detach().numpy(), rtol=1e-3, atol=1e-5)
        times = meter.milliseconds(artifacts)
        assert times.keys() == networks.keys()
        assert 0 < 2 * times["small"] < times["large"]
    assert not any(Path(path).exists() for path in artifacts.values())


def test_a_table_is_kept_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = LayerShape(kind="conv", size=(8, 8), kernel=(3, 3), padding=(1, 1))
    told: list[tuple[int, int]] = []
    meter = OnnxRuntimeMeter(threads=1, table_seconds=0.5)
    table = meter.layer_table({shape: ((4, 8), (4, 8))}, lambda done, total: told.append((done, total)))
    assert told
    assert table.ms(shape, 8, 8) > 0
    again = meter.layer_table({shape: ((4, 8), (4, 8))}, lambda *_: pytest.fail("measured again"))
    assert again == table


def test_only_the_backend_with_a_table_has_a_meter() -> None:
    assert meter_of("onnxruntime-cpu").backend == "onnxruntime-cpu"
    with pytest.raises(InputError, match="the one backend with a layer table, not 'onnxruntime-cuda'"):
        meter_of("onnxruntime-cuda")
