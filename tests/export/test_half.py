"""Half precision as it is computed: the arithmetic is PyTorch's, and what overflows stays in float32 or is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from slimtask.errors import CheckFailed
from slimtask.export.exporter import export_bundle
from slimtask.export.half import HalfArithmetic
from slimtask.tasks import Preprocessing, TaskSpec

SIZE = Preprocessing(height=24, width=32)


class ChannelNorm(nn.Module):
    """A norm by hand, whose squares overflow in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class Tiny(nn.Module):
    """A norm that divides by what vanishes in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e-5 / (x.abs().amax((1, 2, 3), keepdim=True) * 1e-5 + 1e-9)


class Block(nn.Module):
    """Code around a norm whose input overflows already."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * 1e5)


class Net(nn.Module):
    """Two convolutions around one of the modules above."""

    def __init__(self, middle: nn.Module, gain: float = 500.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tasks = (TaskSpec(name="maps", kind="keypoints", channels=6),)
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 1), middle, nn.Conv2d(8, 6, 3, padding=1)
        self.gain = gain

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        return {"maps": self.last(self.middle(self.first(x) * self.gain))}


class ByHand(Net):
    """The norm is code of the network itself, so that there is no part of it to keep."""

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        return {"maps": self.last(ChannelNorm.forward(self.middle, self.first(x) * self.gain))}


@pytest.mark.parametrize(
    "middle", [ChannelNorm(), Tiny(), Block(ChannelNorm()), nn.Sequential(ChannelNorm(), Tiny())],
    ids=["overflow", "underflow", "around", "two"],
)  # fmt: skip
def test_what_half_precision_does_not_bear_stays_in_float32(middle: nn.Module, tmp_path: Path) -> None:
    net = Net(middle).eval()
    image = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    bundle = export_bundle(net, tmp_path / "b", preprocessing=SIZE, paths=["fused"], precision="fp16")
    (graph,) = bundle.manifest.artifacts
    assert graph.precision == "fp16"
    assert graph.parity_in_half is not None
    assert 1e-6 < graph.parity_in_half.error < 2e-2
    types = {node.op_type for node in onnx.load(tmp_path / "b" / "fused.onnx").graph.node}
    assert "Cast" in types
    session = onnxruntime.InferenceSession(str(tmp_path / "b" / "fused.onnx"), providers=["CPUExecutionProvider"])
    expected = net(image)["maps"].detach().numpy()
    assert abs(session.run(None, {"image": image.numpy()})[0] - expected).max() < 2e-2 * abs(expected).max()
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


def test_a_network_that_overflows_in_its_own_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"in half precision the network of fused\.onnx .*'maps' differs by"):
        export_bundle(ByHand(nn.Identity()).eval(), tmp_path / "b", preprocessing=SIZE, precision="fp16")
    assert list(tmp_path.iterdir()) == []


class Writing(nn.Module):
    """Operators that write in place, views, and one that mixes types."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 3
        y[:, 1:].mul_(2).add_(x[:, :-1])
        return torch.cat([y.relu_(), x.softmax(1)], 1).transpose(1, 2) + torch.arange(2, device=x.device)


def test_the_arithmetic_is_that_of_float16() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.GELU(), nn.Conv2d(16, 4, 1)).half().eval()
    for module, x in ((Writing(), torch.randn(2, 3, 2, 2).half()), (conv, torch.randn(2, 3, 12, 12).half())):
        with torch.no_grad():
            expected = module(x.clone())
            with HalfArithmetic():
                found = module(x.clone())
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    big = torch.full((2,), 300.0).half()
    with HalfArithmetic():
        assert bool(torch.isinf(big * big).all())
        assert float(torch.dot(big, big / big)) == 600.0
        assert float((big / 1e6 * 1e-6).sum()) == 0.0
