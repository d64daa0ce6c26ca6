from __future__ import annotations

import numpy as np
import pytest
import torch

from slimtask.bench.timing.backends import BACKENDS, backend
from slimtask.errors import InputError, Unsupported
from slimtask.measured import cpu_name


def test_onnxruntime_describes_what_it_runs(save_convolution):
    opened = backend("onnxruntime-cpu").open(save_convolution("a.onnx", 4), threads=1)
    conditions = opened.conditions
    assert (conditions.backend, conditions.device, conditions.precision) == ("onnxruntime-cpu", cpu_name(), "fp32")
    assert (conditions.threads, conditions.batch, conditions.shape) == (1, 1, (3, 24, 32))
    opened.call()


def test_onnxruntime_runs_the_network_on_every_call(save_convolution, monkeypatch):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession.run_with_iobinding

    def spy(self, binding, *rest):
        real(self, binding, *rest)
        seen.append(np.array(binding.copy_outputs_to_cpu()[0]))

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", spy)
    path = save_convolution("a.onnx", 4)
    backend("onnxruntime-cpu").open(path, threads=1, seed=5).call()
    image = np.random.default_rng(5).standard_normal((1, 3, 24, 32)).astype(np.float32)
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    truth = torch.nn.functional.conv2d(torch.from_numpy(image), torch.from_numpy(weight), padding=1)
    np.testing.assert_allclose(seen[0], truth.numpy(), rtol=1e-4, atol=1e-4)


def test_free_dimensions_take_the_shape_given(save_convolution):
    path = save_convolution("free.onnx", 4, batch="n")
    assert backend("onnxruntime-cpu").open(path, shape=(2, 3, 24, 32)).conditions.batch == 2
    for wrong in (None, (2, 3, 24, 33), (2, 3)):
        with pytest.raises(InputError, match="input 'image'"):
            backend("onnxruntime-cpu").open(path, shape=wrong)


def test_precision_is_read_from_the_weights(save_convolution):
    half, full = save_convolution("half.onnx", 4, kind=np.float16), save_convolution("full.onnx", 4)
    opened = [backend("onnxruntime-cpu").open(path, threads=1) for path in (half, full)]
    assert [one.conditions.precision for one in opened] == ["fp16", "fp32"]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.onnx' does not exist"):
        backend("onnxruntime-cpu").open(tmp_path / "missing.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match=r"noise\.onnx"):
        backend("onnxruntime-cpu").open(tmp_path / "noise.onnx")


def test_pytorch_times_eval_mode_without_gradients_and_leaves_threads_alone():
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled(), torch.get_num_threads()))
            return self.convolution(x)

    before = torch.get_num_threads()
    opened = backend("pytorch-cpu").open(Net().train(), shape=(1, 3, 8, 8), threads=1)
    opened.call()
    assert seen == [(False, False, 1)]
    assert torch.get_num_threads() == before
    assert opened.conditions.precision == "fp32"
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        backend("pytorch-cpu").open("file.onnx", shape=(1, 3, 8, 8))


def test_unknown_backend_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'onnxruntime-cpu'"):
        backend("onnxruntime-cp")


def test_unavailable_backend_says_why_and_what_instead(monkeypatch, save_convolution):
    monkeypatch.setattr("slimtask.bench.timing.backends.cuda_devices", lambda: 0)
    with pytest.raises(Unsupported, match=r"onnxruntime-cuda.*onnxruntime-cpu"):
        backend("onnxruntime-cuda")
    with pytest.raises(Unsupported):
        BACKENDS["onnxruntime-cuda"].open(save_convolution("a.onnx", 4))


@pytest.mark.gpu
def test_onnxruntime_cuda_measures_on_the_gpu(save_convolution):
    opened = backend("onnxruntime-cuda").open(save_convolution("a.onnx", 4))
    opened.call()
    assert opened.conditions.device != cpu_name()
