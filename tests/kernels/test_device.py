from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from slimtask.kernels.device import Device

GPU = Device(backend="cuda", name="NVIDIA H200", sm=90, versions=(("triton", "3.6"), ("torch", "2.11")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "cuda", "name": "G"}, "give sm for 'cuda' and threads for 'cpu'"),
        ({"backend": "cpu", "name": "C"}, "the device 'C' is unclear"),
        ({"backend": "cpu", "name": "C", "threads": 1, "sm": 90}, "not both"),
    ],
)
def test_unclear_devices_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Device(**values)


def test_the_file_tells_name_unit_and_libraries_apart() -> None:
    assert GPU.file_name.startswith("nvidia-h200-sm90-")
    others = [replace(GPU, sm=100), replace(GPU, name="NVIDIA H100"), replace(GPU, versions=(("torch", "2.14"),))]
    assert len({each.file_name for each in (GPU, *others)}) == 4
    assert replace(GPU, versions=GPU.versions[::-1]).file_name == GPU.file_name
    assert "/" not in Device(backend="cpu", name="../../x", threads=1).file_name


def test_json_and_libraries() -> None:
    assert json.loads(json.dumps(GPU.to_json()))["versions"] == {"torch": "2.11", "triton": "3.6"}
    assert GPU.has("triton")
    assert not GPU.has("cuda-bindings")
    assert str(GPU) == "NVIDIA H200 (sm90)"


def test_this_cpu_is_known_by_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    here = Device.current("cpu")
    assert (here.backend, here.threads, here.sm) == ("cpu", 7, None)
    assert dict(here.versions)["torch"].startswith(torch.__version__.split("+")[0])
    assert here.name


def test_a_gpu_is_taken_where_there_is_one_and_missed_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Device.current().backend == "cpu"
    with pytest.raises(ValueError, match="sees no GPU here; take the device 'cpu'"):
        Device.current("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert Device.current().unit == "sm90"
