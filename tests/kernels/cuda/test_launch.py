"""The kernels against float64: on the CPU through the simulator, on a GPU as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slimtask.kernels.cuda import launch
from slimtask.kernels.cuda.variants import Gpu, Variant
from slimtask.kernels.layouts import BlockLayout, CsrLayout, VectorLayout
from slimtask.kernels.ref import delta_linear

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@dataclass(kw_only=True)
class Layer:
    """T sub-tasks of N tokens, K inputs, M outputs; ``delta`` is dense."""

    delta: Tensor
    x: Tensor
    base: Tensor
    delta_bias: Tensor
    residual: Tensor

    def arrays(self, kind: type, **sizes: int) -> list[Tensor]:
        layout = kind.pack(self.delta.float().cpu().numpy(), **sizes)
        tensors = [torch.from_numpy(array).to(self.x.device) for array in layout.arrays().values()]
        return [tensor.to(self.x.dtype) if tensor.is_floating_point() else tensor for tensor in tensors]

    def run(self, kind: type, *, gelu: bool = True, extras: bool = True, **sizes: int) -> Tensor:
        arrays, options = self.arrays(kind, **sizes), {"gelu": gelu}
        if extras:
            options |= {"delta_bias_TM": self.delta_bias, "residual_NM": self.residual}
        if kind is VectorLayout:
            return launch.launch_vectors(*arrays, self.x, self.base, **options)
        function = launch.launch_blocks if kind is BlockLayout else launch.launch_csr
        return function(*arrays, self.x, self.base, tasks=len(self.delta), **options)

    def check(self, y: Tensor, *, gelu: bool = True, extras: bool = True) -> None:
        """Compare with float64, up to the sums' float32 rounding and one rounding of the result."""
        x, delta, base = self.x.double(), self.delta.double(), self.base.double()
        exact = base + x @ delta.mT
        size = base.abs() + x.abs() @ delta.abs().mT
        if extras:
            exact, size = exact + self.delta_bias.double()[:, None], size + self.delta_bias.double().abs()[:, None]
        if gelu:
            exact = F.gelu(exact)
        if extras:
            exact, size = exact + self.residual.double(), size + self.residual.double().abs()
        terms = x.shape[1] + 8
        bound = 0.5 * torch.finfo(self.x.dtype).eps * exact.abs() + 1.2 * terms * 2**-24 * size + 2**-24
        assert y.shape == exact.shape
        assert bool(((y.double() - exact).abs() <= bound).all()), float(((y.double() - exact).abs() / bound).max())


def layer(mask: Tensor, tokens: int, dtype: torch.dtype, base: torch.dtype | None = None) -> Layer:
    generator = torch.Generator().manual_seed(tokens)
    tasks, outputs, inputs = mask.shape

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    made = Layer(
        delta=(mask.cpu() * random(tasks, outputs, inputs) / inputs**0.5).to(dtype),
        x=random(tokens, inputs).to(dtype),
        base=random(tokens, outputs).to(base or dtype),
        delta_bias=random(tasks, outputs).to(dtype),
        residual=random(tokens, outputs).to(dtype),
    )
    return Layer(**{name: tensor.to(mask.device) for name, tensor in vars(made).items()})


def block_mask(tasks: int, outputs: int, inputs: int, density: float, device: str = "cpu") -> Tensor:
    """Blocks at random, none in the last sub-task."""
    generator = torch.Generator().manual_seed(1)
    kept = torch.rand(tasks, -(-outputs // 64), -(-inputs // 64), generator=generator) < density
    kept[-1] = False
    return kept.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, :outputs, :inputs].to(device)


def entry_mask(tasks: int, outputs: int, inputs: int, density: float, height: int = 1, device: str = "cpu") -> Tensor:
    """Entries at random that ``height`` outputs have alike, none in the first sub-task."""
    generator = torch.Generator().manual_seed(1)
    kept = torch.rand(tasks, -(-outputs // height), inputs, generator=generator) < density
    kept[0] = False
    return kept.repeat_interleave(height, 1)[:, :outputs].to(device)


@pytest.mark.parametrize(
    ("tasks", "tokens", "outputs", "inputs", "density", "gelu", "extras"),
    [
        (3, 40, 70, 136, 0.4, True, True),
        (3, 64, 192, 64, 0.6, False, True),
        (2, 33, 65, 133, 0.9, True, False),  # K that no 16-byte copy takes
        (2, 40, 128, 72, 0.0, True, True),  # no block at all
        (3, 41, 8, 300, 1.0, False, False),
    ],
)
def test_blocks_streamed_with_their_inputs_equal_float64(
    streamed, tasks, tokens, outputs, inputs, density, gelu, extras
):
    one = layer(block_mask(tasks, outputs, inputs, density), tokens, BF16)
    one.check(one.run(BlockLayout, gelu=gelu, extras=extras), gelu=gelu, extras=extras)


@pytest.mark.parametrize(("rows", "tokens", "grid"), [(96, 75, 2), (128, 270, 2)])
def test_blocks_against_a_resident_tile_equal_float64(simulator, rows, tokens, grid):
    simulator.gpu = Gpu(sm=80, multiprocessors=2, shared_bytes=163 * 1024)
    simulator.variant = Variant(kernel="blocks", element="bfloat16", base="bfloat16", rows=rows, resident=True)
    one = layer(block_mask(3, 200, 200, 0.8), tokens, BF16)
    one.check(one.run(BlockLayout))
    assert simulator.calls[-1].grid == grid  # 270 tokens are three tiles: one thread block goes on to the next tile


def test_a_base_of_float32_comes_as_near_the_definition_as_one_rounding(simulator):
    simulator.variant = Variant(kernel="blocks", element="float16", base="float32", rows=128)
    generator = np.random.default_rng(0)
    one = layer(block_mask(2, 136, 192, 0.5), 130, FP16, FP32)
    weight, bias = generator.normal(size=(136, 192)) / 14, generator.normal(size=136)
    x, delta = one.x.double().numpy(), one.delta.double().numpy()
    one.base = torch.from_numpy(x @ weight.T + bias).float()
    _, exact = delta_linear(
        x,
        weight,
        delta,
        bias_M=bias,
        delta_bias_TM=one.delta_bias.double().numpy(),
        gelu=True,
        residual_NM=one.residual.double().numpy(),
    )
    np.testing.assert_allclose(one.run(BlockLayout).double().numpy(), exact, rtol=6e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "tokens", "outputs", "inputs", "density"),
    [(32, 50, 70, 136, 0.3), (32, 33, 31, 40, 1.0), (32, 50, 64, 600, 0.2), (64, 23, 130, 90, 0.4)],
)
def test_vectors_equal_float64(simulator, height, tokens, outputs, inputs, density):
    one = layer(entry_mask(3, outputs, inputs, density, height), tokens, BF16 if height == 32 else FP16)
    one.check(one.run(VectorLayout, height=height))


@pytest.mark.parametrize(
    ("dtype", "tokens", "outputs", "inputs", "density", "shared", "name"),
    [
        (BF16, 50, 70, 136, 0.05, 99 * 1024, "csr-bfloat16-bfloat16-64x64-resident"),
        (BF16, 60, 7, 20, 1.0, 99 * 1024, "csr-bfloat16-bfloat16-64x64-resident"),
        (FP32, 13, 70, 133, 0.05, 99 * 1024, "csr-float32-float32-16x64-resident"),
        (FP16, 77, 70, 136, 0.05, 1024, "csr-float16-float16-64x64"),
    ],
)
def test_single_entries_equal_float64(simulator, dtype, tokens, outputs, inputs, density, shared, name):
    simulator.gpu = Gpu(sm=90, multiprocessors=3, shared_bytes=shared)
    one = layer(entry_mask(3, outputs, inputs, density), tokens, dtype)
    one.check(one.run(CsrLayout))
    assert simulator.calls[-1].variant.name == name


def test_the_order_of_threads_changes_nothing(streamed):
    one = layer(block_mask(3, 70, 136, 0.7), 40, BF16)
    results = []
    for streamed.seed in range(4):
        results.append(one.run(BlockLayout))
    assert all(torch.equal(result, results[0]) for result in results)


def test_permuted_sub_tasks_give_permuted_results(streamed):
    one = layer(block_mask(3, 70, 136, 0.7), 40, BF16)
    forward = one.run(BlockLayout)
    one.delta, one.delta_bias = one.delta.flip(0), one.delta_bias.flip(0)
    assert torch.equal(one.run(BlockLayout), forward.flip(0))


def test_skip_empty_leaves_tiles_without_a_delta_alone(streamed):
    one = layer(block_mask(2, 128, 64, 1.0), 40, BF16)
    one.delta[0, 64:] = 0
    out = torch.full((2, 40, 128), 7.0, dtype=BF16)
    arrays = one.arrays(BlockLayout)
    launch.launch_blocks(*arrays, one.x, one.base, tasks=2, out=out, skip_empty=True)
    full = launch.launch_blocks(*arrays, one.x, one.base, tasks=2)
    assert torch.equal(out[0, :, :64], full[0, :, :64])
    assert bool((out[0, :, 64:] == 7).all())
    assert bool((out[1] == 7).all())


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tile.cuh", "wait_copies<DEPTH - 2>();", "wait_copies<DEPTH - 1>();"),
        ("tile.cuh", "__syncthreads();  // every thread's copies", "// every thread's copies"),
        ("tile.cuh", "fetch((stage + DEPTH - 1) % DEPTH);", "fetch(stage);"),
    ],
)
def test_the_simulator_finds_a_planted_fault(streamed, mutant, file, old, new):
    one = layer(block_mask(3, 70, 136, 0.9), 40, BF16)
    one.check(one.run(BlockLayout))
    streamed.build = mutant(file, old, new)
    with pytest.raises((AssertionError, RuntimeError)):
        one.check(one.run(BlockLayout))


def test_nothing_to_do_gives_an_empty_result():
    one = layer(block_mask(2, 64, 64, 1.0), 40, BF16)
    one.x, one.base = one.x[:0], one.base[:0]
    assert launch.launch_blocks(*one.arrays(BlockLayout), one.x, one.base, tasks=2).shape == (2, 0, 64)


def test_tensors_on_the_cpu_are_refused():
    one = layer(block_mask(2, 64, 64, 1.0), 40, BF16)
    with pytest.raises(ValueError, match="x is on cpu, where CUDA kernels do not run; move it to a CUDA device"):
        one.run(BlockLayout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: x.mT}, "x is not contiguous"),
        ({"x": lambda x: x[:, 0]}, r"x has shape \[40\]"),
        ({"base": lambda base: base.half()}, "base is float16 but x is bfloat16"),
        ({"delta": lambda delta: delta.repeat(2, 1, 1)}, r"start has shape \[3\]; the other arguments ask for \[5\]"),
        ({"residual": lambda residual: residual.float()}, "residual is float32 but x is bfloat16"),
        ({"delta_bias": lambda bias: bias[:1]}, r"delta_bias has shape \[1, 64\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_one_sentence(simulator, change, message):
    one = layer(block_mask(2, 64, 64, 1.0), 40, BF16)
    arrays = one.arrays(BlockLayout)
    for name, edit in change.items():
        setattr(one, name, edit(getattr(one, name)))
    with pytest.raises(ValueError, match=message):
        launch.launch_blocks(
            *arrays,
            one.x,
            one.base,
            tasks=len(one.delta),
            delta_bias_TM=one.delta_bias,
            residual_NM=one.residual,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("base", [None, FP32])
@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs", "density"),
    [
        (1024, 768, 2304, 0.05),
        (2048, 768, 3072, 0.1),
        (1000, 3072, 768, 0.05),
        (577, 1024, 4090, 0.5),
        (40, 133, 70, 1),
    ],
)
def test_blocks_on_a_gpu(dtype, base, tokens, inputs, outputs, density):
    one = layer(block_mask(4, outputs, inputs, density, "cuda"), tokens, dtype, base)
    one.check(one.run(BlockLayout))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("height", [32, 64])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1024, 768, 2304), (577, 3072, 1000), (30, 40, 31)])
def test_vectors_on_a_gpu(dtype, height, tokens, inputs, outputs):
    one = layer(entry_mask(4, outputs, inputs, 0.05, height, "cuda"), tokens, dtype)
    one.check(one.run(VectorLayout, height=height))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1024, 768, 2304), (577, 3072, 1000), (30, 9000, 31)])
def test_single_entries_on_a_gpu(dtype, tokens, inputs, outputs):
    one = layer(entry_mask(4, outputs, inputs, 0.01, device="cuda"), tokens, dtype)
    one.check(one.run(CsrLayout))


@pytest.mark.gpu
def test_launches_are_captured_in_a_cuda_graph():
    one = layer(entry_mask(4, 2304, 768, 0.05, 64, "cuda"), 1024, BF16)
    arrays = one.arrays(VectorLayout, height=64)
    launch.launch_vectors(*arrays, one.x, one.base)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = launch.launch_vectors(*arrays, one.x, one.base)
    y.zero_()
    graph.replay()
    one.check(y, gelu=False, extras=False)
