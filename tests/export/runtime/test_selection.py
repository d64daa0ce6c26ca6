import pytest

from slimtask.errors import InputError
from slimtask.export.bundle import Artifact, Bundle, Manifest, TensorSpec
from slimtask.export.runtime.selection import select_artifacts
from slimtask.tasks import Preprocessing, TaskSpec

NAMES = ("semantic", "depth", "edges")


def artifact(role, tasks):
    return Artifact(
        path=f"{role}.onnx", bytes=1, sha256="0" * 64, backend="onnx", role=role, tasks=tasks, precision="fp32",
        precision_source="graph",
    )  # fmt: skip


def bundle(tmp_path, *roles):
    tensor = {"shape": (1,), "dtype": "float32", "layout": "NC", "unit": "1", "kind": "depth"}
    manifest = Manifest(
        tasks=tuple(TaskSpec(name=name, kind="depth", channels=1) for name in NAMES),
        inputs=(TensorSpec(name="image", **tensor),),
        outputs=tuple(TensorSpec(name=name, **tensor) for name in NAMES),
        preprocessing=Preprocessing(height=1, width=1),
        artifacts=tuple(artifact(role, NAMES if role == "fused" else (role,)) for role in roles),
        versions={},
    )
    return Bundle(path=tmp_path, manifest=manifest)


@pytest.mark.parametrize(
    ("roles", "tasks", "expected", "reason"),
    [
        (("fused", *NAMES), None, ["fused"], "from the fused file"),
        (("fused", *NAMES), ["depth"], ["depth"], "from its own file"),
        (("fused", *NAMES), ["edges", "depth"], ["fused"], "it also computes semantic"),
        (("fused",), ["depth"], ["fused"], "it also computes semantic, edges"),
        (NAMES, ["edges", "depth"], ["depth", "edges"], "one file each"),
        (NAMES, None, list(NAMES), "one file each"),
    ],
)
def test_the_smallest_files_that_serve_the_tasks(tmp_path, roles, tasks, expected, reason):
    artifacts, choice = select_artifacts(bundle(tmp_path, *roles), tasks, "onnxruntime-cpu")
    assert [artifact.role for artifact in artifacts] == expected
    assert reason in choice


def test_what_cannot_be_served_says_how_to_export_it(tmp_path):
    with pytest.raises(InputError, match=r"serves edges; export it with --paths fused,per-task"):
        select_artifacts(bundle(tmp_path, "depth"), ["depth", "edges"], "onnxruntime-cpu")
    with pytest.raises(InputError, match="nothing for backend 'tensorrt', only onnx; export it with --to tensorrt"):
        select_artifacts(bundle(tmp_path, "fused"), None, "tensorrt")
    with pytest.raises(InputError, match="unknown task 'dept'; did you mean 'depth'"):
        select_artifacts(bundle(tmp_path, "fused"), ["dept"], "onnxruntime-cpu")
    with pytest.raises(InputError, match="no task was asked for"):
        select_artifacts(bundle(tmp_path, "fused"), [], "onnxruntime-cpu")
