import hashlib
import json
import os
import shutil

import onnx
import pytest

from slimtask.errors import InputError
from slimtask.export.bundle import MANIFEST
from slimtask.export.verify import verify_bundle
from tests.slimtask import onnx_samples as samples


def rewrite_graph(folder, name, change):
    """Change a graph and make the manifest agree with it, as somebody with bad intentions would."""
    model = onnx.load(folder / name, load_external_data=False)
    change(model)
    (folder / name).write_bytes(model.SerializeToString())
    content = (folder / name).read_bytes()
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = next(artifact for artifact in manifest["artifacts"] if artifact["path"] == name)
    entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def external(model):
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def set_external(model, key, value):
    next(entry for entry in external(model).external_data if entry.key == key).value = value


def test_a_whole_bundle_holds_and_its_paths_agree(exported):
    report = verify_bundle(exported)
    assert report
    assert report.failures == ()
    details = {check.name: check.detail for check in report.checks}
    assert "11 files" in details["files"]
    assert "4 per-task graphs equal the fused one" in details["paths agree"]
    assert "sm_80, sm_86, sm_89, sm_120" in details["fused.tensorrt-rtx.engine"]
    assert "fp32 (graph)" in details["depth.onnx"]


def test_a_changed_byte_stops_everything_else(bundle_dir):
    content = bytearray((bundle_dir / "fused.onnx").read_bytes())
    content[100] ^= 4
    (bundle_dir / "fused.onnx").write_bytes(content)
    report = verify_bundle(bundle_dir)
    assert not report
    assert [check.name for check in report.checks] == ["files"]
    assert "'fused.onnx' has changed" in report.failures[0].detail


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../weights.bin", "not a file listed"),
        ("location", "/etc/passwd", "not a file listed"),
        ("location", "depth.tensorrt-rtx.engine", "not a file listed"),
        ("offset", "99999999", "beyond the end"),
        ("offset", "-64", "beyond the end"),
    ],
)
def test_weights_outside_the_files_listed_are_refused(bundle_dir, key, value, message):
    rewrite_graph(bundle_dir, "depth.onnx", lambda model: set_external(model, key, value))
    failures = {check.name: check.detail for check in verify_bundle(bundle_dir).failures}
    assert message in failures["depth.onnx"]
    assert set(failures) == {"depth.onnx", "paths agree"}


def test_a_path_that_computes_something_else_is_found(bundle_dir):
    def negate(model):
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "heads.depth.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))

    rewrite_graph(bundle_dir, "depth.onnx", negate)
    assert [check.name for check in verify_bundle(bundle_dir).failures] == ["paths agree"]


def test_an_invalid_graph_is_found(bundle_dir):
    rewrite_graph(bundle_dir, "depth.onnx", lambda model: model.graph.node[0].ClearField("input"))
    assert "not valid ONNX" in verify_bundle(bundle_dir).failures[0].detail


def test_a_precision_that_is_only_claimed_is_found(bundle_dir):
    manifest = json.loads((bundle_dir / MANIFEST).read_text())
    manifest["artifacts"][0]["precision"] = "fp16"
    (bundle_dir / MANIFEST).write_text(json.dumps(manifest))
    assert "computes in fp32, the manifest says fp16" in verify_bundle(bundle_dir).failures[0].detail


def test_a_graph_without_parity_is_found(bundle_dir):
    manifest = json.loads((bundle_dir / MANIFEST).read_text())
    manifest["artifacts"][0]["parity"] = None
    (bundle_dir / MANIFEST).write_text(json.dumps(manifest))
    assert "parity" in verify_bundle(bundle_dir).failures[0].detail


def _set(manifest, path, value):
    *parents, last = path
    for part in parents:
        manifest = manifest[part]
    manifest[last] = value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({("outputs", 0, "dtype"): "float64"}, "the manifest says float64"),
        ({("outputs", 0, "shape", 1): 7}, "the manifest says float32 [1, 7"),
        ({("outputs", 0, "kind"): "keypoints"}, "is not what the manifest's segmentation task"),
        ({("tasks", 0, "kind"): "keypoints", ("outputs", 0, "unit"): "1"}, "is not what the manifest's keypoints task"),
        ({("tasks", 0, "channels"): 2, ("tasks", 0, "classes"): []}, "task of 2 channel(s)"),
        ({("tasks", 0, "kind"): "classification", ("outputs", 0, "kind"): "classification"}, "channel(s) gives"),
        ({("outputs", 0, "layout"): "NC"}, "channel(s) gives"),
        ({("inputs", 0, "name"): "picture"}, "the manifest says ('picture',)"),
        ({("inputs", 0, "dtype"): "uint8"}, "the manifest says uint8"),
        ({("preprocessing", "height"): 31}, "the manifest's preprocessing gives"),
    ],
)
def test_a_manifest_that_does_not_fit_the_graph_is_found(bundle_dir, changes, message):
    manifest = json.loads((bundle_dir / MANIFEST).read_text())
    assert manifest["tasks"][0]["kind"] == "segmentation"
    for path, value in changes.items():
        _set(manifest, path, value)
    (bundle_dir / MANIFEST).write_text(json.dumps(manifest))
    assert any(message in check.detail for check in verify_bundle(bundle_dir).failures)


def test_what_is_no_bundle_is_bad_input(tmp_path):
    with pytest.raises(InputError):
        verify_bundle(tmp_path)


def test_a_tensor_inside_a_function_reaches_out_of_the_bundle_no_more_than_others(bundle_dir):
    tensor = onnx.TensorProto(name="stolen", data_location=onnx.TensorProto.EXTERNAL, dims=[4], data_type=1)
    tensor.external_data.add(key="location", value="../secret")
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    function = onnx.helper.make_function("slimtask", "F", [], ["y"], [node], [])
    rewrite_graph(bundle_dir, "depth.onnx", lambda model: model.functions.append(function))
    (failure,) = (check for check in verify_bundle(bundle_dir).failures if check.name == "depth.onnx")
    assert "'stolen' cannot be read (it refers to '../secret'" in failure.detail


@pytest.mark.parametrize("kind", ["hard", "folder", "within"])
def test_a_bundle_of_links_to_its_own_content_holds(bundle_dir, tmp_path, kind):
    other = tmp_path / "other"
    if kind == "folder":
        other.symlink_to(bundle_dir)
    elif kind == "hard":
        shutil.copytree(bundle_dir, other, copy_function=os.link)
    else:
        shutil.copytree(bundle_dir, other)
        (other / "depth.onnx").unlink()
        (other / "depth.onnx").symlink_to("fused.onnx")
        content, manifest = (other / "fused.onnx").read_bytes(), json.loads((other / MANIFEST).read_text())
        entry = next(artifact for artifact in manifest["artifacts"] if artifact["path"] == "depth.onnx")
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (other / MANIFEST).write_text(json.dumps(manifest))
    report = verify_bundle(other)
    assert report.checks[0].holds
    assert bool(report) is (kind != "within")  # a fused graph is not that of depth


def test_hostile_graphs_fail_their_check_in_one_sentence(bundle_dir):
    outside = samples.constant(samples.tensor("/etc/passwd"))
    for hostile, words in ((samples.nested_functions(24), "nested"), (outside, "refers")):
        (bundle_dir / "depth.onnx").write_bytes(hostile.SerializeToString())
        rewrite_graph(bundle_dir, "depth.onnx", lambda model: None)
        failures = {check.name: check.detail for check in verify_bundle(bundle_dir).failures}
        assert set(failures) == {"depth.onnx", "paths agree"}
        assert all(words in detail for detail in failures.values())
