from __future__ import annotations

import pytest

from slimtask.kernels.cuda.calls import (
    Buffer,
    Extras,
    blocks_call,
    csr_call,
    pitch,
    transpose_call,
    vectors_call,
)
from slimtask.kernels.cuda.variants import Gpu

GPU = Gpu.of_sm(90)
NONE = Extras()


def floats(*shape: int, dtype: str = "bfloat16", pointer: int = 256) -> Buffer:
    return Buffer(pointer=pointer, shape=shape, dtype=dtype)


def integers(*shape: int) -> Buffer:
    return Buffer(pointer=512, shape=shape, dtype="int32")


X, BASE, Y = floats(2048, 768), floats(2048, 2304), floats(4, 2048, 2304)
BLOCKS = (integers(4 * 36 + 1), integers(500), floats(500, 64, 64))


def test_arguments_are_inputs_then_integers_then_the_output():
    bias = floats(4, 2304, pointer=1024)
    call = blocks_call(*BLOCKS, X, BASE, Y, extras=Extras(delta_bias=bias, gelu=True), gpu=GPU)
    assert call.arguments == (*BLOCKS, X, BASE, bias, BASE, 4, 2048, 2304, 768, 1 + 2, Y)
    assert call.shared_bytes == call.variant.shared_bytes(768)


def test_flags_say_what_the_epilogue_reads():
    residual = floats(2048, 2304)
    assert Extras().flags == 0
    assert Extras(gelu=True, delta_bias=residual, residual=residual, skip_empty=True).flags == 15
    assert Extras(residual=residual).flags == 4


def test_as_many_thread_blocks_as_the_gpu_holds_share_whole_tiles_equally():
    few = (BLOCKS[0], integers(50), floats(50, 64, 64))
    streamed = blocks_call(*few, X, BASE, Y, extras=NONE, gpu=GPU)
    assert not streamed.variant.resident
    assert streamed.grid == 256  # of 2 x 132 places, and 16 tiles of 128 tokens
    resident = blocks_call(*BLOCKS, X, BASE, Y, extras=NONE, gpu=GPU)
    assert resident.variant.resident
    assert resident.grid == 128


def test_more_tiles_than_places_are_shared_too():
    tokens = 128 * 1000
    call = blocks_call(
        *BLOCKS, floats(tokens, 768), floats(tokens, 2304), floats(4, tokens, 2304), extras=NONE, gpu=GPU
    )
    assert call.grid == (132 if call.variant.resident else 264)


def test_no_more_thread_blocks_than_units():
    call = vectors_call(
        integers(1, 1, 16),
        floats(1, 1, 32, 16),
        floats(64, 40),
        floats(33, 32),
        floats(1, 33, 32),
        extras=NONE,
        gpu=GPU,
    )
    assert call.grid == 1


def test_rows_of_a_transposed_input_are_a_multiple_of_eight():
    assert [pitch(tokens) for tokens in (1, 8, 9, 1024)] == [8, 8, 16, 1024]
    call = transpose_call(floats(9, 100), floats(100, 16))
    assert (call.grid, call.arguments[1:4]) == (2, (9, 100, 16))


def blocks(*, residual: Buffer | None = None, **changes: Buffer) -> None:
    names = ("start", "column", "value", "x", "base", "y")
    given = {**dict(zip(names, (*BLOCKS, X, BASE, Y), strict=True)), **changes}
    blocks_call(*given.values(), extras=Extras(residual=residual), gpu=GPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": floats(2048, 768, dtype="float32")}, "x is float32; the tensor cores' kernels take bfloat16 or float16"),
        ({"x": floats(2048, dtype="float16")}, r"x has shape \[2048\]; give it two dimensions"),
        (
            {"value": floats(500, 32, 32)},
            r"value has shape \[500, 32, 32\]; the other arguments ask for \[500, 64, 64\]",
        ),
        ({"value": floats(500, 64, 64, dtype="float16")}, "value is float16 but x is bfloat16; give both alike"),
        ({"value": floats(500, 64, 64, pointer=8)}, "value does not start on 16 bytes"),
        ({"start": integers(3)}, r"start has shape \[3\]; the other arguments ask for \[145\]"),
        ({"column": floats(500)}, "column is bfloat16; give int32"),
        ({"base": floats(2048, 2304, dtype="float16")}, "base is float16 but x is bfloat16"),
        ({"base": floats(2047, 2304)}, r"base has shape \[2047, 2304\]"),
        ({"y": floats(4, 2048, 0)}, "give .T, N, M., none of them 0"),
        ({"residual": floats(2048, 1)}, r"residual has shape \[2048, 1\]"),
        (
            {"x": floats(2**20, 4096), "base": floats(2**20, 2304), "y": floats(4, 2**20, 2304)},
            "x has 4294967296 elements",
        ),
    ],
)
def test_buffers_that_do_not_fit_are_refused_in_one_sentence(changes, message):
    blocks()
    with pytest.raises(ValueError, match=message):
        blocks(**changes)


def test_vectors_refuse_other_heights_lengths_and_skipping():
    x_t, base, y = floats(768, 64), floats(64, 128), floats(2, 64, 128)
    with pytest.raises(ValueError, match="pack with such a height"):
        vectors_call(integers(2, 8, 16), floats(2, 8, 16, 16), x_t, base, y, extras=NONE, gpu=GPU)
    with pytest.raises(ValueError, match="a multiple of 16"):
        vectors_call(integers(2, 4, 20), floats(2, 4, 32, 20), x_t, base, y, extras=NONE, gpu=GPU)
    with pytest.raises(ValueError, match="leave skip_empty off"):
        extras = Extras(skip_empty=True)
        vectors_call(integers(2, 4, 16), floats(2, 4, 32, 16), x_t, base, y, extras=extras, gpu=GPU)
    with pytest.raises(
        ValueError, match=r"x transposed has shape \[768, 60\]; the other arguments ask for \[768, 64\]"
    ):
        vectors_call(integers(2, 4, 16), floats(2, 4, 32, 16), floats(768, 60), base, y, extras=NONE, gpu=GPU)


def test_single_entries_take_float32_and_refuse_integers():
    base, y = floats(64, 128, dtype="float32"), floats(2, 64, 128, dtype="float32")
    value = floats(9, dtype="float32")
    call = csr_call(integers(257), integers(9), value, floats(768, 64, dtype="float32"), base, y, extras=NONE, gpu=GPU)
    assert call.variant.element == "float32"
    with pytest.raises(ValueError, match="x is int32; give bfloat16, float16 or float32"):
        csr_call(integers(257), integers(9), value, integers(768, 64), base, y, extras=NONE, gpu=GPU)
