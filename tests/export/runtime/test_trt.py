import sys

import numpy as np
import pytest

from slimtask.errors import InputError, Unsupported
from slimtask.export.runtime.trt import TrtSession, tensorrt_module


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(Unsupported, match=r"pip install slimtask\[tensorrt\]"):
        tensorrt_module("tensorrt")
    with pytest.raises(InputError, match="did you mean 'tensorrt'"):
        tensorrt_module("tensort")


def test_an_engine_without_pycuda_says_what_to_install(monkeypatch):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(Unsupported, match=r"pip install slimtask\[gpu\]"):
        TrtSession(trt, b"never deserialised")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_built_here_equal_the_model_and_run_from_the_bundle(tmp_path, net, preprocessing, precision):
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    pytest.importorskip("pycuda.driver", reason="PyCUDA is not installed")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU")
    from slimtask.export.exporter import export_bundle
    from slimtask.export.runtime import Runner

    bundle = export_bundle(
        net, tmp_path / "bundle", preprocessing=preprocessing, to=["onnx", "tensorrt"], precision=precision
    )
    major, minor = torch.cuda.get_device_capability()
    for artifact in bundle.artifacts("tensorrt"):
        assert artifact.parity
        assert (artifact.precision, artifact.targets) == (precision, (f"sm_{major}{minor}",))
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    for tasks in (None, ["depth"]):
        with Runner.open(bundle, tasks, backend="tensorrt") as gpu, Runner.open(bundle, tasks) as cpu:
            expected = cpu.run(image)
            for name, output in gpu.run(image).items():
                np.testing.assert_allclose(output, expected[name], atol=2e-2 * np.abs(expected[name]).max())
