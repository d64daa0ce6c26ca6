from __future__ import annotations

import pytest

from slimtask.kernels.cuda.variants import TARGETS, Gpu, Variant, blocks_variant, csr_variant, vectors_variant

H200 = Gpu.of_sm(90)
SIZES = [(768, 2304), (768, 3072), (3072, 768), (1024, 4096), (4096, 1024), (12288, 4096)]


@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("tokens", [1, 40, 577, 2048, 100_000])
def test_every_choice_fits_the_shared_memory_of_its_gpu(sm, tokens):
    gpu = Gpu.of_sm(sm)
    for inputs, outputs in SIZES:
        for density in (0.001, 0.05, 1.0):
            blocks = int(4 * density * inputs * outputs / 64**2)
            sizes = {"tokens": tokens, "inputs": inputs, "gpu": gpu}
            chosen = [
                blocks_variant(element="bfloat16", base="float32", blocks=blocks, **sizes),
                vectors_variant(element="float16", base="float16", tokens=tokens, height=64),
                vectors_variant(element="float16", base="float16", tokens=tokens, height=32),
                csr_variant(element="bfloat16", base="bfloat16", **sizes),
                csr_variant(element="float32", base="float32", **sizes),
            ]
            for variant in chosen:
                assert variant.shared_bytes(inputs) <= gpu.shared_bytes, variant
                assert variant.threads <= 256
                assert variant.threads % 32 == 0
                assert gpu.blocks_at_once(variant.shared_bytes(inputs), 2) >= gpu.multiprocessors


def test_few_blocks_are_streamed_with_their_inputs_and_many_against_a_resident_tile():
    sizes = {"element": "bfloat16", "base": "bfloat16", "tokens": 2048, "inputs": 768, "gpu": H200}
    few, many = blocks_variant(blocks=50, **sizes), blocks_variant(blocks=2000, **sizes)
    assert (few.rows, few.resident) == (128, False)
    assert (many.rows, many.resident) == (128, True)
    assert many.shared_bytes(768) == (128 * 776 + 3 * 64 * 64) * 2 + 16


def test_a_long_input_gets_a_smaller_resident_tile_then_none():
    sizes = {"element": "bfloat16", "base": "bfloat16", "tokens": 2048, "blocks": 10_000, "gpu": H200}
    assert blocks_variant(inputs=1024, **sizes).rows == 96
    assert blocks_variant(inputs=1536, **sizes).rows == 64
    assert not blocks_variant(inputs=3072, **sizes).resident


def test_single_entries_keep_the_tile_that_fits():
    sizes = {"tokens": 2048, "gpu": H200}
    assert csr_variant(element="bfloat16", base="bfloat16", inputs=768, **sizes).rows == 128
    assert csr_variant(element="bfloat16", base="bfloat16", inputs=3072, **sizes).rows == 32
    assert csr_variant(element="float32", base="float32", inputs=3072, **sizes).rows == 16
    assert not csr_variant(element="float32", base="float32", inputs=200_000, **sizes).resident


def test_few_tokens_get_a_small_tile():
    sizes = {"element": "bfloat16", "base": "bfloat16", "inputs": 768, "gpu": H200}
    assert blocks_variant(tokens=20, blocks=10, **sizes).rows == 32
    assert csr_variant(tokens=5, **sizes).rows == 8
    assert vectors_variant(element="bfloat16", base="bfloat16", tokens=64, height=32).rows == 64


def test_names_tell_variants_apart():
    names = {
        Variant(kernel=kernel, element=element, base=base, rows=rows, height=height, resident=resident).name
        for kernel in ("blocks", "csr")
        for element in ("bfloat16", "float16")
        for base in ("bfloat16", "float32")
        for rows in (32, 64)
        for height in (32, 64)
        for resident in (False, True)
    }
    assert len(names) == 64
