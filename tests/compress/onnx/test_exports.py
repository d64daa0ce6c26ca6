"""Graphs as torch.onnx.export writes them, through TorchScript and through torch.export."""

import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from slimtask.compress.onnx.compressing import compress_onnx


def export(model, example, path, dynamo=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(model, (example,), dynamo=True, opset_version=20, verbose=False).save(path)
        else:
            torch.onnx.export(model, (example,), path, dynamo=False, opset_version=17, input_names=["x"])
    return path


def randomised(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def removed(result):
    return sum(cut.before - cut.after for cut in result.removed)


@pytest.mark.parametrize("what", ["filter", "gamma", "beta"])
def test_a_batchnorm_is_folded_and_its_zeros_go(kill, same, tmp_path, what):
    layers = []
    for channels in (3, 12, 12):
        layers += [nn.Conv2d(channels, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    model = randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)))
    kill(model, what)
    path = export(model, torch.randn(2, 3, 16, 16), tmp_path / "a.onnx")
    result = compress_onnx(path)
    assert [(cut.before, cut.after) for cut in result.removed] == [(12, 4)] * 3
    same(path, result.model, dims=(2, 3, 16, 16))


def test_mobilenet_v3_loses_all_that_is_zero(kill, same, tmp_path):
    model = randomised(torchvision.models.mobilenet_v3_small(weights=None))
    kill(model, "beta")
    path = export(model, torch.randn(2, 3, 64, 64), tmp_path / "a.onnx")
    result = compress_onnx(path)
    # One third of every width stays, rounded up; the gate of a squeeze-excite block keeps nothing alive.
    assert all(cut.after == -(-cut.before // 3) for cut in result.removed)
    (output,) = result.model.graph.output
    assert {refusal.reason for refusal in result.refused} == {f"'{output.name}' is an output of the graph"}
    same(path, result.model, dims=(2, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
def test_resnet18(kill, same, tmp_path, dynamo):
    model = randomised(torchvision.models.resnet18(weights=None))
    kill(model, "filter")
    path = export(model, torch.randn(2, 3, 64, 64), tmp_path / "a.onnx", dynamo)
    result = compress_onnx(path, tmp_path / "b.onnx")
    # Twelve groups, three of each width, of which kill leaves one third: 3 * (22 + 43 + 86 + 171) of 2880 channels.
    # Each group keeps a carrier for its zero-padded readers, two of them a second one.
    assert sum(cut.before for cut in result.removed) == 2880
    assert removed(result) == 2880 - 966 - 12 - 2
    assert (tmp_path / "b.onnx").stat().st_size < 0.2 * path.stat().st_size
    same(path, tmp_path / "b.onnx", dims=(2, 3, 64, 64), seed=5)
    assert np.isfinite(result.certificate.max_rel_error)
