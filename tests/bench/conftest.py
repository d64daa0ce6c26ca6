from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def save_convolution(tmp_path):
    """Returns a function that writes a one-convolution ONNX graph (opset 20, IR 10) and gives its path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def save(name: str, channels: int, *, batch: int | str = 1, kind=np.float32):
        weight = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(kind)
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        graph = helper.make_graph(
            [helper.make_node("Conv", ["image", "weight"], ["y"], pads=[1, 1, 1, 1])],
            "convolution",
            [helper.make_tensor_value_info("image", elem, [batch, 3, 24, 32])],
            [helper.make_tensor_value_info("y", elem, [batch, channels, 24, 32])],
            initializer=[numpy_helper.from_array(weight, "weight")],
        )
        assert elem in (TensorProto.FLOAT, TensorProto.FLOAT16)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return save
