import hashlib

import numpy as np
import onnx
import onnx_ir as ir

from slimtask.export.weights.store import write_graphs


def graph(**weights):
    """A graph that adds every weight to its input."""
    image = ir.val("image", ir.DataType.FLOAT, (64,))
    values = {name: ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in weights.items()}
    nodes, last = [], image
    for index, value in enumerate(values.values()):
        nodes.append(ir.node("Add", [last, value], outputs=[ir.val(f"sum{index}", ir.DataType.FLOAT, (64,))]))
        last = nodes[-1].outputs[0]
    made = ir.Graph([image], [last], nodes=nodes, initializers=list(values.values()), opset_imports={"": 20}, name="g")
    return ir.Model(made, ir_version=10)


def random(seed, size=64):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def references(path):
    model = onnx.load(path, load_external_data=False)
    return {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data}


def test_equal_contents_are_stored_once_aligned_and_load_back(tmp_path):
    shared, own = random(0), random(1)
    files = write_graphs({"a.onnx": graph(x=shared, y=own), "b.onnx": graph(other_name=shared)}, tmp_path)
    assert files == ("a.onnx", "b.onnx", "weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size == 2 * 256
    a, b = references(tmp_path / "a.onnx"), references(tmp_path / "b.onnx")
    assert a["x"] == b["other_name"] == {"location": "weights.bin", "offset": "0", "length": "256"}
    assert int(a["y"]["offset"]) % 64 == 0
    loaded = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    np.testing.assert_array_equal(loaded["x"], shared)
    np.testing.assert_array_equal(loaded["y"], own)


def test_odd_sizes_keep_the_alignment(tmp_path):
    write_graphs({"a.onnx": graph(x=random(0, 65), y=random(1, 65))}, tmp_path)
    offsets = [int(entry["offset"]) for entry in references(tmp_path / "a.onnx").values()]
    assert offsets == [0, 320]


def test_small_tensors_stay_in_the_graph(tmp_path):
    assert write_graphs({"a.onnx": graph(x=random(0, 63))}, tmp_path) == ("a.onnx",)
    assert not references(tmp_path / "a.onnx")


def test_the_files_depend_on_the_graphs_alone(tmp_path):
    digests = []
    for name in ("one", "two"):
        files = write_graphs({"a.onnx": graph(x=random(0), y=random(1))}, tmp_path / name)
        digests.append([hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
