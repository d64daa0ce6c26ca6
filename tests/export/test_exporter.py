import onnx
import pytest
import torch

from slimtask.errors import CheckFailed, InputError, Unsupported
from slimtask.export.bundle import Bundle
from slimtask.export.exporter import export_bundle
from slimtask.tasks import TaskSpec


def weights_of(path):
    return {
        t.name: {e.key: e.value for e in t.external_data}
        for t in onnx.load(path, load_external_data=False).graph.initializer
    }


def test_the_bundle_describes_inputs_outputs_and_how_it_was_made(exported, net, preprocessing):
    manifest = Bundle.open(exported).manifest
    assert manifest.preprocessing == preprocessing
    assert manifest.tasks == net.tasks
    assert manifest.inputs[0].model_dump() == {
        "name": "image",
        "shape": (1, 3, 32, 48),
        "dtype": "float32",
        "layout": "NCHW",
        "unit": "1",
        "kind": "image",
    }
    outputs = {output.name: (output.shape, output.layout, output.unit) for output in manifest.outputs}
    assert outputs["depth"] == ((1, 1, 32, 48), "NCHW", "metre")
    assert outputs["attributes"] == ((1, 4), "NC", "logit")
    assert {"slimtask", "torch", "onnx", "onnxruntime", "tensorrt-rtx"} <= set(manifest.versions)
    assert manifest.provenance == {"checkpoint": "0" * 64}


def test_every_graph_was_run_and_every_engine_tells_its_precision_and_targets(exported):
    for artifact in Bundle.open(exported).manifest.artifacts:
        assert artifact.precision == "fp32"
        if artifact.backend == "onnx":
            assert artifact.parity
            assert artifact.parity.tolerance == 1e-4
            assert set(artifact.parity.outputs) == set(artifact.tasks)
            assert all(
                (error.statistic == "p99") == (name == "normals") for name, error in artifact.parity.outputs.items()
            )
            assert (artifact.precision_source, artifact.opset) == ("graph", 20)
        else:
            assert artifact.parity is None
            assert (artifact.precision_source, artifact.targets) == ("network", ("sm_80", "sm_86", "sm_89", "sm_120"))


def test_the_trunk_is_stored_once_for_all_paths(exported, net):
    fused = weights_of(exported / "fused.onnx")
    for task in net.tasks:
        own = weights_of(exported / f"{task.name}.onnx")
        assert own["trunk.0.0.weight"] == fused["trunk.0.0.weight"]
        assert own["trunk.1.0.weight"] == fused["trunk.1.0.weight"]
        assert not [name for name in own if name.startswith("heads.") and task.name not in name]
    trunk_bytes = 4 * sum(net.trunk[i][0].weight.numel() for i in (0, 1))
    shared = (exported / "weights.bin").stat().st_size
    assert trunk_bytes < shared < 1.5 * trunk_bytes < 5 * trunk_bytes


def test_an_export_repeats_byte_for_byte(tmp_path, exported, net, preprocessing):
    export_bundle(net, tmp_path / "again", preprocessing=preprocessing)
    for name in ("fused.onnx", "depth.onnx", "weights.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_half_precision_is_read_back_from_graph_and_network(tmp_path, net, preprocessing):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    steps = []
    bundle = export_bundle(
        net, tmp_path / "half", preprocessing=preprocessing, paths=["fused"], to=["onnx", "tensorrt-rtx"],
        targets=["sm_86"], precision="fp16", progress=lambda *step: steps.append(step),
    )  # fmt: skip
    graph, engine = bundle.manifest.artifacts
    assert (graph.precision, engine.precision, engine.targets) == ("fp16", "fp16", ("sm_86",))
    assert graph.parity.tolerance == 2e-2
    assert graph.parity.error > 1e-5, "a half-precision graph as exact as float32 is not one"
    assert [step[1:] for step in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert not (tmp_path / "half" / "depth.onnx").exists()


class TracedDifferently(torch.nn.Module):
    """Computes something else while it is traced, as code that branches on a Python value can."""

    def __init__(self, net):
        super().__init__()
        self.net, self.tasks = net, net.tasks

    def forward(self, x, tasks=None):
        outputs = self.net(x, tasks=tasks)
        if torch.compiler.is_exporting() and "depth" in outputs:
            outputs["depth"] = outputs["depth"] * 1.01
        return outputs


def test_beyond_the_tolerance_nothing_is_left(tmp_path, net, preprocessing):
    with pytest.raises(CheckFailed, match=r"depth\.onnx does .*'depth' differs by 1\.00e-02 .* tolerance 1e-03"):
        export_bundle(
            TracedDifferently(net), tmp_path / "b", preprocessing=preprocessing, paths=["per-task"], tolerance=1e-3
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(tmp_path, net, preprocessing):
    def interrupt(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(net, tmp_path / "bundle", preprocessing=preprocessing, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": ["onnx", "tensorrt-rx"]}, "unknown format 'tensorrt-rx'; did you mean 'tensorrt-rtx'"),
        ({"paths": ["fuse"]}, "unknown path 'fuse'; did you mean 'fused'"),
        ({"paths": []}, "at least one path"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; take one of fp32, fp16"),
        ({"precision": "bf16"}, "unknown precision 'bf16'; take one of fp32, fp16"),
        ({"targets": ["sm_86"]}, "need an engine"),
    ],
)
def test_unknown_choices_name_the_nearest(tmp_path, net, preprocessing, arguments, message):
    with pytest.raises(InputError, match=message):
        export_bundle(net, tmp_path / "bundle", preprocessing=preprocessing, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_fails_before_any_work(tmp_path, net, preprocessing):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    with pytest.raises(InputError, match="unknown target 'sm_42'"):
        export_bundle(net, tmp_path / "b", preprocessing=preprocessing, to=["tensorrt-rtx"], targets=["sm_42"])


def test_an_existing_output_is_never_touched(tmp_path, net, preprocessing):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        export_bundle(net, tmp_path / "bundle", preprocessing=preprocessing)
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("names", [("fused",), ("image",), ("depth", "depth")])
def test_task_names_that_would_collide_are_refused(tmp_path, preprocessing, names):
    model = torch.nn.Identity()
    model.forward = lambda x, tasks=None: {}
    model.tasks = tuple(TaskSpec(name=name, kind="depth", channels=1) for name in names)
    with pytest.raises(InputError, match="rename the task"):
        export_bundle(model, tmp_path / "bundle", preprocessing=preprocessing)


def test_a_missing_backend_says_what_to_install(tmp_path, net, preprocessing, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(Unsupported, match=r"pip install slimtask\[rtx\]"):
        export_bundle(net, tmp_path / "bundle", preprocessing=preprocessing, to=["tensorrt-rtx"])
    assert list(tmp_path.iterdir()) == []
