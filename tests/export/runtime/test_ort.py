import onnx
import pytest

from slimtask.errors import InputError, Unsupported
from slimtask.export.runtime.ort import OrtSession
from slimtask.onnx_session import session_options


def relocate(graph, location):
    model = onnx.load_model_from_string(graph)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString()


@pytest.fixture
def graph(exported):
    return (exported / "depth.onnx").read_bytes()


@pytest.fixture
def weights(exported):
    return {"weights.bin": (exported / "weights.bin").read_bytes()}


def test_idle_threads_do_not_spin():
    options = session_options(threads=3)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 3


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "../fp32/weights.bin", "absolute"])
def test_a_graph_reaches_no_file_it_was_not_given(graph, weights, exported, monkeypatch, location):
    monkeypatch.chdir(exported)  # the weights lie in the working directory, and are still out of reach
    place = str(exported / "weights.bin") if location == "absolute" else location
    with pytest.raises(InputError, match="which is not a file listed"):
        OrtSession(relocate(graph, place), {})
    if "/" in location.removeprefix("./"):
        with pytest.raises(InputError, match="which is not a file listed"):
            OrtSession(relocate(graph, place), weights)


def test_weights_that_are_too_short_are_refused(graph, weights):
    with pytest.raises(InputError, match="beyond the end"):
        OrtSession(graph, {"weights.bin": weights["weights.bin"][:1000]})


def test_a_damaged_graph_is_refused_in_one_sentence(weights):
    with pytest.raises(InputError, match="'x' is no whole ONNX file") as failure:
        OrtSession(b"junk", weights, name="'x'")
    assert "\n" not in str(failure.value)


def test_cuda_without_a_device_is_refused_instead_of_running_on_the_cpu(graph, weights):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(Unsupported, match="use onnxruntime-cpu"):
        OrtSession(graph, weights, backend="onnxruntime-cuda")
