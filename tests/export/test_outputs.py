"""What a model returns: run on inputs of its own, told in one sentence, accepted as its kind can be decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.errors import CheckFailed, InputError, SlimtaskError
from slimtask.export.exporter import export_bundle
from slimtask.export.runtime.runner import Runner
from slimtask.export.verify import verify_bundle
from slimtask.tasks import Preprocessing, TaskSpec

SIZE = Preprocessing(height=24, width=32)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


class Net(nn.Module):
    """A convolution and any code after it."""

    def __init__(self, code: Callable[[Tensor, Tensor], Any], kind: Any = "keypoints", channels: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tasks = (TaskSpec(name="t", kind=kind, channels=channels),)
        self.c, self.code = nn.Conv2d(3, 5, 3, padding=1), code

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Any]:
        return {"t": self.code(x, self.c(x))}


def bundle(net: nn.Module, folder: Path, **options: Any) -> Any:
    return export_bundle(net.eval(), folder / "b", preprocessing=SIZE, **options)


class InPlace(nn.Module):
    """Scales its image where it lies; ``left_on`` draws in evaluation too, which no export can follow."""

    def __init__(self, left_on: bool) -> None:
        super().__init__()
        self.tasks = tuple(TaskSpec(name=name, kind="keypoints", channels=1) for name in "abc")
        self.c, self.left_on = nn.Conv2d(3, 1, 1), left_on

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        y = self.c(x.div_(255)) * 255
        return {"a": y, "b": y * 2, "c": F.dropout(y, 0.5) + 1 if self.left_on else y + 1}


def test_a_model_that_writes_to_its_image_is_compared_on_the_image(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="'c' differs"):
        bundle(InPlace(left_on=True), tmp_path)
    net = InPlace(left_on=False)
    made = bundle(net, tmp_path)
    assert all(error.scale > 1 for artifact in made.manifest.artifacts for error in artifact.parity.outputs.values())
    with Runner.open(made) as runner:
        image = runner.preprocess(PIXELS)
        outputs = runner.infer(image)
        expected = net(torch.tensor(image))
    for name, output in outputs.items():
        torch.testing.assert_close(torch.from_numpy(output), expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["one channel", "none"])
def test_class_numbers_are_classes(shape: str, tmp_path: Path) -> None:
    net = Net(lambda _, y: y.argmax(1, keepdim=shape != "none"), "segmentation")
    made = bundle(net, tmp_path)
    (output,) = made.manifest.outputs
    assert (output.dtype, output.unit, output.layout) == ("int64", "class", "NHW" if shape == "none" else "NCHW")
    with Runner.open(made) as runner:
        image = runner.preprocess(PIXELS)
        found = runner.decode(runner.infer(image))["t"]
    assert (found.shape, found.dtype) == ((24, 32), np.uint8)
    assert len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, net.c(torch.tensor(image)).argmax(1)[0].numpy())
    assert verify_bundle(made.path)


@pytest.mark.parametrize(("kind", "channels"), [("edges", 1), ("saliency", 1), ("multilabel", 5)])
def test_booleans_are_decided(kind: str, channels: int, tmp_path: Path) -> None:
    dense = kind != "multilabel"
    net = Net(lambda _, y: y[:, :1] > 0 if dense else y.mean((2, 3)) > 0, kind, channels)
    made = bundle(net, tmp_path)
    assert made.manifest.outputs[0].dtype == "bool"
    with Runner.open(made) as runner:
        outputs = runner.run(PIXELS)
        found = runner.decode(outputs)["t"]
    np.testing.assert_array_equal(found, outputs["t"][0, 0] if dense else outputs["t"][0])
    assert found.dtype == np.float32


def test_float64_stays_float64(tmp_path: Path) -> None:
    made = bundle(Net(lambda _, y: y.double() * 2), tmp_path)
    assert made.manifest.outputs[0].dtype == "float64"
    with Runner.open(made) as runner:
        assert runner.run(PIXELS)["t"].dtype == np.float64


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str, str]] = {
    "bfloat16": (lambda _, y: y.bfloat16(), "keypoints", r"task 't' \(keypoints\) gives bfloat16"),
    "float16": (lambda _, y: y.half(), "keypoints", r"task 't' \(keypoints\) gives float16"),
    "class numbers of an image": (lambda _, y: y.mean((2, 3)).argmax(1), "classification", "gives int64"),
    "whole metres": (lambda _, y: y[:, :1].int(), "depth", "gives int32"),
    "a list": (lambda _, y: [y], "keypoints", "gives a list, not a tensor"),
    "another size": (lambda _, y: y[..., :8, :8], "keypoints", r"shape \(1, 5, 8, 8\) instead of"),
    "an error": (lambda x, _: x.view(7), "keypoints", r"image on the CPU \(RuntimeError: shape"),
    "an assertion": (lambda x, _: exec("assert False"), "keypoints", r"\(AssertionError: AssertionError\)"),
    "another device": (lambda x, _: x.to("meta").cpu(), "keypoints", "does not run on a 3x24x32 image"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_decoded_or_run_is_one_sentence(what: str, tmp_path: Path) -> None:
    code, kind, sentence = REFUSED[what]
    with pytest.raises(InputError, match=sentence) as caught:
        bundle(Net(code, kind, 1 if kind == "depth" else 5), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_scripted_parts_are_refused_by_name(tmp_path: Path) -> None:
    net = Net(lambda _, y: y)
    with warnings.catch_warnings(action="ignore"):
        net.c = torch.jit.script(nn.Conv2d(3, 5, 1))
    with pytest.raises(InputError, match="'c' is TorchScript"):
        bundle(net, tmp_path)


def bfloat16_inside(x: Tensor, _: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.conv2d(x, torch.ones(5, 3, 1, 1)).float()


def test_an_operator_that_the_opset_has_not_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlimtaskError, match="exporting the model") as caught:
        bundle(Net(bfloat16_inside), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("parameter", "task"), [("t", "t"), ("image", "t"), ("k", "constant"), ("constant", "k")])
def test_names_of_parameters_tasks_and_values_do_not_clash(parameter: str, task: str, tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tasks = (TaskSpec(name=task, kind="keypoints", channels=5),)
            self.c = nn.Conv2d(3, 5, 1)
            self.register_parameter(parameter, nn.Parameter(torch.rand(1, 5, 1, 1)))

        def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
            return {task: self.c(x) * self.get_parameter(parameter) + torch.linspace(0, 1, x.shape[-1])}

    net = Named()
    made = bundle(net, tmp_path)
    with Runner.open(made) as runner:
        image = runner.preprocess(PIXELS)
        torch.testing.assert_close(torch.from_numpy(runner.infer(image)[task]), net(torch.tensor(image))[task])


class Constant(nn.Module):
    """Heads that do not look at the image: a constant, a parameter, the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = (
            TaskSpec(name="fixed", kind="classification", channels=4),
            TaskSpec(name="learned", kind="classification", channels=3),
            TaskSpec(name="same", kind="keypoints", channels=3),
        )
        self.value = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]]))

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        return {"fixed": torch.full((1, 4), 0.25), "learned": self.value, "same": x}


def test_a_head_that_ignores_the_image_is_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = bundle(Constant(), tmp_path)
    with Runner.open(made) as runner:
        image = runner.preprocess(PIXELS)
        outputs = runner.infer(image)
    assert outputs["fixed"].tolist() == [[0.25] * 4]
    assert outputs["learned"].tolist() == [[1.0, 2.0, 3.0]]
    np.testing.assert_array_equal(outputs["same"], image)
    assert capfd.readouterr().err == ""
