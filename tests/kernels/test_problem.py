from __future__ import annotations

import json
from dataclasses import replace

import pytest

from slimtask.kernels.device import Device
from slimtask.kernels.floors import H200, Layer
from slimtask.kernels.problem import Problem

CPU = Device(backend="cpu", name="a CPU", threads=2)
FC1 = Problem(tasks=4, tokens=1024, inputs=768, outputs=3072, pattern="block", density=0.05, device=CPU)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": 0}, "tasks=0, which must be at least 1"),
        ({"tokens": 0}, "tokens=0, which must be at least 1"),
        ({"pattern": "diagonal"}, "no pattern 'diagonal'; take one of unstructured, two-four, block"),
        ({"density": 0.0}, r"density of 0.0 is not in \(0, 1\]; leave out tasks that changed nothing"),
        ({"density": float("nan")}, "density of nan"),
        ({"rows": 1.5}, r"rows of 1.5 is not in \[0, 1\]; divide the row budget by the tokens"),
        ({"dtype": "int8"}, "no kernels for dtype 'int8'; take one of float32, float16, bfloat16"),
        ({"tasks": 1, "base_included": True}, "nothing to choose; run it dense"),
        ({"pattern": "heads", "outputs": 100}, "qkv has 100 outputs"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        replace(FC1, **wrong)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_layers_of_the_three_operators() -> None:
    assert FC1.layers == (Layer(tokens=1024, inputs=768, outputs=3072),)
    mlp = replace(FC1, pattern="hidden-units")
    assert mlp.layers == (FC1.layers[0], Layer(tokens=1024, inputs=3072, outputs=768))
    attention = replace(FC1, pattern="heads", outputs=2304)
    assert attention.layers[1] == Layer(tokens=1024, inputs=768, outputs=768)
    assert (FC1.operator, mlp.operator, attention.operator) == ("linear", "mlp", "attention")


def test_deltas_are_the_tasks_but_the_base() -> None:
    assert FC1.deltas == 4
    assert replace(FC1, base_included=True).deltas == 3


def test_ceilings_are_those_of_the_device_and_dtype() -> None:
    gpu = Device(backend="cuda", name="NVIDIA H200", sm=90)
    assert replace(FC1, device=gpu, dtype="bfloat16").ceilings == H200
    assert replace(FC1, device=gpu).ceilings.dense < H200.dense
    assert FC1.item_bytes == 4


def test_json_is_everything_but_the_device() -> None:
    assert Problem(device=CPU, **json.loads(json.dumps(FC1.to_json()))) == FC1
    assert "block 0.05" in str(FC1)
