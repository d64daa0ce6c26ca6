"""Files: external weights, what is damaged or of another kind, writing whole or not at all."""

import numpy as np
import onnx
import pytest

from slimtask.compress.onnx import files
from slimtask.compress.onnx.compressing import compress_onnx
from slimtask.compress.onnx.files import read_onnx, write_onnx
from slimtask.compress.onnx.normalise import normalise
from slimtask.errors import InputError


@pytest.fixture
def model(builder):
    b = builder()
    y = b.op("Relu", b.conv("x", 3, 16, 3, dead=range(6)))
    return b.model(b.conv(y, 16, 4, 3))


def save_external(model, path):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving moves the weights out of what it saves
    onnx.save(copy, path, save_as_external_data=True, location=f"{path.stem}.w", size_threshold=0)


def test_external_weights_stay_external(model, tmp_path, same):
    save_external(model, tmp_path / "in.onnx")
    result = compress_onnx(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert result.files == (tmp_path / "out.onnx", tmp_path / "out.onnx.data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "in.w", "out.onnx", "out.onnx.data"]
    written = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    offsets = [int(e.value) for t in written.graph.initializer for e in t.external_data if e.key == "offset"]
    assert offsets
    assert all(offset % 64 == 0 for offset in offsets)
    same(model, tmp_path / "out.onnx")
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def test_a_graph_too_large_for_one_file_is_split(model, tmp_path, same, monkeypatch):
    monkeypatch.setattr(files, "SPLIT_BYTES", 1000)
    result = compress_onnx(model, tmp_path / "out.onnx")
    assert len(result.files) == 2
    same(model, tmp_path / "out.onnx")


def test_weights_of_another_graph_are_not_overwritten(model, tmp_path):
    network = normalise(*read_onnx(model))
    (tmp_path / "out.onnx.data").write_bytes(b"another's")
    with pytest.raises(InputError, match=r"out\.onnx\.data' exists already"):
        write_onnx(network, tmp_path / "out.onnx", external_data=True)
    assert not (tmp_path / "out.onnx").exists()


def test_one_file_is_replaced_whole(model, tmp_path, same):
    onnx.save(model, tmp_path / "a.onnx")
    before = onnx.load(tmp_path / "a.onnx")
    compress_onnx(tmp_path / "a.onnx", tmp_path / "a.onnx")
    same(before, tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_the_graph_given_is_not_changed(model):
    before = model.SerializeToString(deterministic=True)
    compress_onnx(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no ONNX model"),
        (b"not a protobuf at all", "no whole ONNX file"),
        (onnx.TensorProto(name="t").SerializeToString(), "no "),
        (None, "does not exist"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path, content, message):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        compress_onnx(path)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(model, tmp_path, share):
    content = model.SerializeToString()
    (tmp_path / "a.onnx").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"a\.onnx"):
        compress_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("damage", ["missing", "short", "outside"])
def test_damaged_external_weights_are_named(model, tmp_path, damage):
    save_external(model, tmp_path / "in.onnx")
    if damage == "missing":
        (tmp_path / "in.w").unlink()
    elif damage == "short":
        (tmp_path / "in.w").write_bytes((tmp_path / "in.w").read_bytes()[:100])
    else:
        (tmp_path / "inner").mkdir()
        damaged = onnx.load(tmp_path / "in.onnx", load_external_data=False)
        for tensor in damaged.graph.initializer:
            tensor.external_data[0].value = "../in.w"
        (tmp_path / "inner" / "in.onnx").write_bytes(damaged.SerializeToString())
    path = tmp_path / ("inner" if damage == "outside" else "") / "in.onnx"
    with pytest.raises(InputError, match="weights 'c0' cannot be read"):
        compress_onnx(path)


def test_sizes_that_do_not_fit_the_content_are_refused(model):
    model.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(InputError, match="weights 'c0' cannot be read"):
        compress_onnx(model)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_other_precisions_are_refused_by_name(model, kind):
    number = getattr(onnx.TensorProto, kind)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, number, values.shape, values.reshape(-1)))
    with pytest.raises(InputError, match=f"'c0' of Conv 'n0' are {kind.lower()}, not float32"):
        compress_onnx(model)


def test_quantised_graphs_are_refused_by_name(builder):
    b = builder()
    scale, zero = b.constant(0.1), b.constant(0, np.uint8)
    model = b.model(b.op("DequantizeLinear", b.op("QuantizeLinear", "x", scale, zero), scale, zero))
    with pytest.raises(InputError, match=r"quantised .QuantizeLinear 'n0'"):
        compress_onnx(model)
