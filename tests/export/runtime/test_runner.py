import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from slimtask.errors import InputError
from slimtask.export.runtime import Runner


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_raw_outputs_equal_the_pytorch_model(exported, net, image):
    with Runner.open(exported, threads=1) as runner:
        prepared = runner.preprocess(image)
        outputs = runner.run(image)
    with torch.no_grad():
        expected = net(torch.from_numpy(prepared))
    assert list(outputs) == [task.name for task in net.tasks]
    for name, output in outputs.items():
        torch.testing.assert_close(torch.from_numpy(output), expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tasks", "files"), [(["depth"], ["depth.onnx"]), (["depth", "semantic"], ["fused.onnx"])])
def test_only_the_files_of_the_asked_tasks_are_loaded(exported, image, tasks, files):
    with Runner.open(exported, tasks, threads=1) as runner:
        assert [artifact.path for artifact in runner.artifacts] == files
        assert files[0] in runner.choice
        assert set(runner.run(image)) == set(tasks)


def test_several_single_task_files_serve_where_there_is_no_fused_one(bundle_dir, exported, image):
    manifest = json.loads((bundle_dir / "manifest.json").read_text())
    manifest["artifacts"] = [entry for entry in manifest["artifacts"] if entry["role"] != "fused"]
    (bundle_dir / "manifest.json").write_text(json.dumps(manifest))
    with Runner.open(bundle_dir, ["depth", "attributes"], threads=1) as own, Runner.open(exported, threads=1) as fused:
        assert len(own.artifacts) == 2
        for name, output in own.run(image).items():
            np.testing.assert_allclose(output, fused.run(image)[name], rtol=1e-5, atol=1e-5)


def test_decoding_gives_predictions_of_each_kind(exported, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    with Runner.open(exported, threads=1) as runner:
        predictions = runner.decode(runner.run(tmp_path / "image.png"))
    shapes = {name: prediction.shape for name, prediction in predictions.items()}
    assert shapes == {"semantic": (32, 48), "depth": (32, 48), "normals": (3, 32, 48), "attributes": (4,)}
    assert predictions["depth"].min() > 0
    np.testing.assert_allclose(np.linalg.norm(predictions["normals"], axis=0), 1, rtol=1e-5)


def test_bad_requests_are_told_apart(exported, image):
    with pytest.raises(InputError, match="unknown backend 'tensort'; did you mean 'tensorrt'"):
        Runner.open(exported, backend="tensort")
    with pytest.raises(InputError, match="unknown task"):
        Runner.open(exported, ["pose"])
    with Runner.open(exported, ["depth"], threads=1) as runner:
        with pytest.raises(InputError, match="--resize"):
            runner.run(np.zeros((64, 96, 3), np.uint8))
        assert runner.run(np.zeros((64, 96, 3), np.uint8), resize=True)["depth"].shape == (1, 1, 32, 48)
        with pytest.raises(InputError, match="call preprocess first"):
            runner.infer(image[None].transpose(0, 3, 1, 2))
        with pytest.raises(InputError, match="not list; call preprocess first"):
            runner.infer([0.0])
        for value in (b"\x89PNG\r\n\x1a\n", image.tolist(), None, torch.from_numpy(image)):
            with pytest.raises(InputError, match=f"path of a file, not {type(value).__name__}; give numpy"):
                runner.run(value)
        with pytest.raises(InputError, match=r"shape \(32, 48, 3\) and type float32 is not RGB"):
            runner.run(image.astype(np.float32))
        with pytest.raises(InputError, match=r"none\.png' does not exist"):
            runner.run("none.png")


def test_a_closed_runner_says_so_and_tasks_may_come_from_a_generator(exported, image):
    runner = Runner.open(exported, (name for name in ["depth", "semantic"]), threads=1)
    assert list(runner.run(image)) == ["semantic", "depth"]
    with pytest.raises(InputError, match="no output of task 'semantic' to decode"):
        runner.decode({"depth": runner.run(image)["depth"]})
    runner.close()
    with pytest.raises(InputError, match="the runner is closed"):
        runner.run(image)


def test_threads_end_in_results_or_in_the_sentence_when_the_runner_is_closed(exported, image):
    runner = Runner.open(exported, threads=1)
    expected = runner.run(image)["depth"]
    ends = []

    def work():
        try:
            while True:
                np.testing.assert_array_equal(runner.run(image)["depth"], expected)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    runner.close()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in ends] == [InputError] * 3


@pytest.mark.parametrize("name", ["depth.onnx", "weights.bin"])
def test_a_damaged_file_is_refused_before_it_is_loaded(bundle_dir, name):
    content = bytearray((bundle_dir / name).read_bytes())
    content[-1] ^= 1
    (bundle_dir / name).write_bytes(content)
    with pytest.raises(InputError, match=f"is damaged: '{name}' has changed") as failure:
        Runner.open(bundle_dir, ["depth"])
    assert failure.value.exit_status == 2
    (bundle_dir / "fused.onnx").write_bytes(b"")  # not among the files of this request


def test_an_engine_with_a_changed_byte_never_reaches_tensorrt(bundle_dir, monkeypatch):
    path = bundle_dir / "depth.tensorrt-rtx.engine"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # an import would fail otherwise
    with pytest.raises(InputError, match="has changed"):
        Runner.open(bundle_dir, ["depth"], backend="tensorrt-rtx")


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
from slimtask.export.bundle import Bundle
from slimtask.export.parity import Parity
from slimtask.export.runtime import Runner

with Runner.open({bundle!r}, ["depth", "semantic"], threads=1) as runner:
    predictions = runner.decode(runner.run({image!r}))
np.save({out!r}, predictions["depth"])
assert predictions["semantic"].dtype == np.uint8
assert not [name for name in sys.modules if name.split(".")[0] in {blocked}]
"""


def test_the_runtime_runs_where_there_is_no_torch_nor_onnx(exported, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    blocked = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "jaxtyping", "tensorrt_rtx", "pycuda"}
    paths = {name: str(tmp_path / f"{name}") for name in ("image.png", "out.npy")}
    code = WITHOUT_TORCH.format(blocked=blocked, bundle=str(exported), image=paths["image.png"], out=paths["out.npy"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with Runner.open(exported, ["depth"], threads=1) as runner:
        np.testing.assert_allclose(np.load(paths["out.npy"]), runner.decode(runner.run(image))["depth"], rtol=1e-4)
