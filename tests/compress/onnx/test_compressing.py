"""Whole graphs: how many channels go, by a count made by hand, and that ONNX Runtime computes the same."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimtask.compress.onnx import compressing as compress
from slimtask.compress.onnx.compressing import compress_onnx
from slimtask.compress.onnx.dead import Decision
from slimtask.errors import CheckFailed, InputError

# Filters 0, 1, 2 of eight are zero and emit these constants.
BIAS = [-1.0, 0.5, 0.0, *[0.3] * 5]


def chain(b, middle=lambda b, y: y, read=lambda b, y: b.conv(y, 8, 4)):
    """x -> 1x1 convolution to 8 channels, three of them dead -> ``middle`` -> ``read`` -> output."""
    return b.model(read(b, middle(b, b.conv("x", 3, 8, bias=BIAS, dead=[0, 1, 2]))))


def removed(result):
    return sum(cut.before - cut.after for cut in result.removed)


def unary(kind, **attributes):
    return lambda b, y: b.op(kind, y, **attributes)


def pads(*values, mode="constant"):
    return lambda b, y: b.op("Pad", y, b.constant([0, 0, 1, 1] * 2, np.int64), *map(b.constant, values), mode=mode)


def depthwise(pad):
    return lambda b, y: b.conv(y, 8, 8, 3, group=8, pads=[pad] * 4)


def depthwise_up(b, y):
    return b.op("ConvTranspose", y, b.constant(b.weight(8, 1, 2, 2)), strides=[2, 2], group=8)


def batchnorm(b, y):
    return b.op("BatchNormalization", y, *(b.constant(b.rng.uniform(0.5, 1.5, 8)) for _ in range(4)))


def instancenorm(b, y):
    return b.op("InstanceNormalization", y, b.constant(b.weight(8)), b.constant(b.weight(8)))


def there_and_back(b, y):
    return b.op("Transpose", b.op("LeakyRelu", b.op("Transpose", y, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])


def swapped_halves(b, y):
    b.op("Split", y, outputs=["a", "b"], axis=1, num_outputs=2)
    return b.op("Concat", "b", "a", axis=1)


def sliced(b, y):
    ends = [[0], [6], [6], [100]]
    parts = [
        b.op("Slice", y, b.constant(start, np.int64), b.constant(end, np.int64), b.constant([1], np.int64))
        for start, end in (ends[:2], ends[2:])
    ]
    return b.op("Concat", *reversed(parts), axis=1)


def gathered(b, y):
    return b.op("Gather", y, b.constant([3, 1, 0, 2, -1, 4, 5, 6], np.int64), axis=1)


def reshaped(b, y):
    flat = b.op("Sigmoid", b.op("Reshape", y, b.constant([2, 8, -1], np.int64)))
    return b.op("Reshape", flat, b.constant([0, 8, 12, 10], np.int64))


def expanded(b, y):
    return b.op("Expand", b.op("GlobalAveragePool", y), b.constant([2, 8, 12, 10], np.int64))


def squeezed(b, y):
    axes = b.constant([2, 3], np.int64)
    return b.op("Unsqueeze", b.op("Squeeze", b.op("ReduceMax", y, axes), axes), axes)


def gated(b, y):
    hidden = b.op("Relu", b.conv(b.op("GlobalAveragePool", y), 8, 4))
    return b.op("Mul", b.op("Relu", y), b.op("HardSigmoid", b.conv(hidden, 4, 8)))


def resized(b, y):
    return b.op("Resize", y, "", b.constant([1, 1, 2, 2]), mode="linear")


def resized_to(b, y):
    return b.op("Resize", y, "", "", b.constant([2, 8, 5, 5], np.int64), mode="cubic")


def scaled(b, y):
    return b.op("Add", b.op("Mul", b.constant(b.weight(8, 1, 1)), y), b.constant(b.weight(1, 8, 1, 1)))


def spatial_gate(b, y):
    return b.op("Mul", y, b.op("Sigmoid", b.conv("x", 3, 1)))


def with_itself(b, y):
    return b.op("Add", y, b.op("Tanh", y))


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        *((unary(kind), 3) for kind in ("Relu", "HardSwish", "Sigmoid", "Softplus", "Tanh", "Erf", "Gelu", "Identity")),
        (unary("MaxPool", kernel_shape=[3, 3], pads=[1] * 4), 3),
        (unary("AveragePool", kernel_shape=[3, 3], pads=[1] * 4), 3),
        (unary("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1), 1),
        (unary("GlobalAveragePool"), 3),
        (pads(), 1),
        (pads(0.5), 1),
        (pads(mode="reflect"), 3),
        (depthwise(0), 3),
        (depthwise(1), 1),
        (depthwise_up, 1),
        (batchnorm, 3),
        (instancenorm, 3),
        (there_and_back, 3),
        (swapped_halves, 3),
        (sliced, 3),
        (gathered, 3),
        (reshaped, 3),
        (expanded, 3),
        (squeezed, 3),
        (gated, 2),  # the gate varies, so of the two constants that Relu leaves at zero only those go
        (resized, 3),
        (resized_to, 3),
        (scaled, 3),
        (spatial_gate, 1),
        (with_itself, 3),
    ],
)
def test_dead_channels_go_through(builder, same, middle, expected):
    model = chain(builder(), middle)
    result = compress_onnx(model)
    assert removed(result) == expected
    assert result.certificate
    same(model, result.model)
    onnx.checker.check_model(result.model, full_check=True)
    first = next(t for t in result.model.graph.initializer if t.name == "c0")
    assert list(first.dims) == [8 - expected, 3, 1, 1]


def transposed(b, y):
    return b.op("ConvTranspose", y, b.constant(b.weight(8, 4, 2, 2)), strides=[2, 2])


def matmul(b, y):
    return b.op("MatMul", b.op("Transpose", y, perm=[0, 2, 3, 1]), b.constant(b.weight(8, 4)))


def matmul_add(b, y):
    return b.op("Add", b.constant(b.weight(4)), matmul(b, y))


def gemm(b, y):
    flat = b.op("Flatten", y)
    return b.op("Gemm", flat, b.constant(b.weight(960, 4)), b.constant(0.5), alpha=0.5, beta=2.0)


def gemm_without_bias(b, y):
    return b.op("Gemm", b.op("Flatten", y), b.constant(b.weight(4, 960)), transB=1)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda b, y: b.conv(y, 8, 4, 3, auto_pad="VALID"), 3),
        (lambda b, y: b.conv(y, 8, 4, 3, pads=[1] * 4), 2),  # -1 stays and carries 0.5
        (lambda b, y: b.conv(y, 8, 4, 3, auto_pad="SAME_UPPER"), 2),
        (lambda b, y: b.conv(y, 8, 4, 3, pads=[1] * 4, ignored=[0, 5]), 3),  # 0 and 5 are ignored; 0.5 carries nothing
        (transposed, 2),
        (matmul, 3),
        (matmul_add, 3),
        (gemm, 3),
        (gemm_without_bias, 3),
    ],
)
def test_readers_absorb_constants(builder, same, read, expected):
    model = chain(builder(), read=read)
    result = compress_onnx(model)
    assert removed(result) == expected
    same(model, result.model)
    onnx.checker.check_model(result.model, full_check=True)


def test_what_nobody_reads_goes_and_so_does_what_only_that_reads(builder, same):
    b = builder()
    y = b.op("Relu", b.conv("x", 3, 8))
    weight = b.weight(6, 8, 1, 1)
    weight[2:, :3] = 0  # inputs 0, 1, 2 are read by outputs 0 and 1 alone
    z = b.op("Relu", b.op("Conv", y, b.constant(weight)))
    model = b.model(b.conv(z, 6, 4, ignored=[0, 1]))
    result = compress_onnx(model)
    assert [(cut.before, cut.after, cut.removed) for cut in result.removed] == [
        (8, 5, {"ignored by every reader": 3}),
        (6, 4, {"ignored by every reader": 2}),
    ]
    same(model, result.model)


def test_a_residual_sum_loses_only_what_is_dead_in_all_its_terms(builder, same):
    b = builder()
    first = b.conv("x", 3, 8, bias=BIAS, dead=[0, 1, 2])
    second = b.conv(b.op("Relu", first), 8, 8, bias=BIAS, dead=[1, 2, 3])
    model = b.model(b.conv(b.op("Add", first, second), 8, 4))
    result = compress_onnx(model)
    assert [(cut.producers, cut.before, cut.after) for cut in result.removed] == [(("Conv 'n0'", "Conv 'n2'"), 8, 6)]
    assert [(r.channels, r.reason) for r in result.refused if "Add" in r.reason] == [
        (2, "Add 'n3' makes varying ones of dead ones")
    ]
    same(model, result.model)


def test_grouped_convolutions_lose_whole_groups(builder, same):
    b = builder()
    y = b.op("Relu", b.conv("x", 3, 8, dead=[0, 1, 4]))
    z = b.op("Relu", b.conv(y, 8, 12, 3, dead=[0, 1, 2, 6, 7], group=4))
    model = b.model(b.conv(z, 12, 4))
    result = compress_onnx(model)
    assert [(cut.before, cut.after) for cut in result.removed] == [(4, 3)]  # a channel is a group here
    grouped = result.model.graph.node[2]
    assert {a.name: a.i for a in grouped.attribute}["group"] == 3
    same(model, result.model)


def test_alignment_keeps_dead_channels_and_one_channel_always_stays(builder, same):
    model = chain(builder())
    assert [cut.after for cut in compress_onnx(model, align=2).removed] == [6]
    with pytest.raises(InputError, match=r"in blocks of 8 channels: 3 of its 12 channels are dead.* \(--align 1\)"):
        compress_onnx(model, align=8)
    b = builder()
    y = b.conv("x", 3, 4, dead=[0, 1, 2, 3])
    model = b.model(b.op("Add", b.conv(y, 4, 3), "x"))
    result = compress_onnx(model)
    assert [cut.after for cut in result.removed] == [1]
    same(model, result.model)


def test_shared_weights_are_cut_for_each_use_and_stay_one_where_they_can(builder, same):
    b = builder()
    shared, bias = b.constant(b.weight(6, 6, 1, 1)), b.constant([0.0] * 3 + [0.3] * 3)
    b.initialisers[shared][:3] = 0
    y = b.conv("x", 3, 6)
    for _ in range(2):
        y = b.op("Relu", b.op("Conv", y, shared, bias))
    model = b.model(b.conv(y, 6, 4))
    result = compress_onnx(model)
    assert removed(result) == 6
    shapes = sorted(tuple(t.dims) for t in result.model.graph.initializer if t.name.startswith(shared))
    assert shapes == [(3, 3, 1, 1), (3, 6, 1, 1)]
    assert sum(t.name.startswith(bias) for t in result.model.graph.initializer) == 1
    same(model, result.model)


def test_initialisers_listed_as_inputs_are_constants(builder, same):
    model = chain(builder())
    model.graph.input.append(onnx.helper.make_tensor_value_info("c0", 1, (8, 3, 1, 1)))
    result = compress_onnx(model)
    assert removed(result) == 3
    assert [value.name for value in result.model.graph.input] == ["x"]
    same(model, result.model)


def test_open_sizes_are_proved_at_two(builder, same):
    b = builder(dims=("n", 3, "h", "w"))
    model = chain(b, read=lambda b, y: b.op("Flatten", b.op("GlobalAveragePool", b.conv(y, 8, 4))))
    result = compress_onnx(model)
    assert len(result.certificate.sizes) == 2
    same(model, result.model, dims=(3, 3, 7, 9))


def test_a_reshape_of_open_sizes_is_written_anew(builder, same):
    b = builder(dims=("n", 3, "h", "w"))

    def read(b, y):
        flat = b.op("Reshape", b.op("GlobalMaxPool", y), b.constant([-1, 8], np.int64), allowzero=1)
        return b.op("Gemm", flat, b.constant(b.weight(8, 4)))

    model = chain(b, read=read)
    result = compress_onnx(model)
    assert removed(result) == 3
    same(model, result.model, dims=(5, 3, 7, 9))


def test_heads_keep_their_channels_and_nothing_removable_is_an_error(builder):
    b = builder()
    y = b.conv("x", 3, 8, dead=[0, 1])
    with pytest.raises(InputError, match=r"0 of its 8 channels are free.*8 because 'v0' is an output of the graph"):
        compress_onnx(b.model(y))
    b = builder()
    y = b.op("Softmax", b.conv("x", 3, 8, dead=[0, 1]), axis=1)
    with pytest.raises(InputError, match=r"8 because Softmax 'n1' mixes its channels"):
        compress_onnx(b.model(b.conv(y, 8, 4)))


def test_what_is_inexact_is_put_back_by_name(builder, same, monkeypatch):
    b = builder()
    y = b.op("Relu", b.conv("x", 3, 8, bias=BIAS, dead=[0, 1, 2]))
    z = b.op("Relu", b.conv(y, 8, 6, dead=[0, 1]))
    model = b.model(b.conv(z, 6, 4))
    decide = compress.decide

    def wrong(flow, classes, allowed, align):
        right = decide(flow, classes, allowed, align)
        more = right.removed.copy()
        more[classes.of[flow.values[y].labels[6]]] |= allowed[classes.of[flow.values[y].labels[6]]]
        return Decision(removed=more, carriers=right.carriers)

    monkeypatch.setattr(compress, "decide", wrong)
    result = compress_onnx(model)
    assert [cut.name for cut in result.removed] == ["Conv 'n2'"]
    assert result.refused[0].group == "Conv 'n0'"
    assert result.refused[0].reason.startswith("it changes an output by")
    same(model, result.model)
    monkeypatch.setattr(compress, "certify", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(CheckFailed, match="does not run"):
        compress_onnx(model)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100_000))
def test_random_networks_compute_the_same(random_net, execute, seed):
    model = random_net(seed).model("y")
    try:
        result = compress_onnx(model)
    except InputError as error:
        assert "can be removed" in str(error)  # noqa: PT017
        return
    x = np.random.default_rng(seed).uniform(-3, 3, (2, 3, 12, 10)).astype(np.float32)
    (expected,), (got,) = execute(model, x), execute(result.model, x)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not any("changes an output" in refusal.reason or "not run" in refusal.reason for refusal in result.refused)
    again = {t.name: t.dims for t in result.model.graph.initializer}
    assert sum(np.prod(d) for d in again.values()) < sum(np.prod(t.dims) for t in model.graph.initializer)
