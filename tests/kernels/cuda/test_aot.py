"""What is compiled ahead of time is all that is launched, and is found again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from slimtask.kernels.cuda.aot import INPUTS, KERNELS, main, shipped
from slimtask.kernels.cuda.calls import HEIGHTS
from slimtask.kernels.cuda.compile import image_in
from slimtask.kernels.cuda.variants import (
    ELEMENTS,
    TARGETS,
    TENSOR_CORE,
    Gpu,
    Variant,
    blocks_variant,
    csr_variant,
    vectors_variant,
)


@pytest.mark.parametrize("sm", TARGETS)
def test_no_layer_takes_a_variant_that_is_not_shipped(sm: int) -> None:
    gpu, draw = Gpu.of_sm(sm), random.Random(sm)
    there = shipped([gpu], tuple(ELEMENTS), KERNELS, INPUTS)
    for _ in range(300):
        tokens, inputs = draw.randint(1, 5000), draw.choice(INPUTS)
        element = draw.choice(TENSOR_CORE)
        base = draw.choice((element, "float32"))
        blocks, height = int(10 ** draw.uniform(0, 6)), draw.choice(HEIGHTS)
        single = draw.choice(tuple(ELEMENTS))
        assert {
            blocks_variant(element=element, base=base, tokens=tokens, inputs=inputs, blocks=blocks, gpu=gpu),
            vectors_variant(element=element, base=base, tokens=tokens, height=height, gpu=gpu),
            csr_variant(element=single, base=draw.choice((single, "float32")), tokens=tokens, inputs=inputs, gpu=gpu),
        } <= there


@pytest.mark.parametrize("sm", TARGETS)
def test_what_few_tokens_take_is_shipped(sm: int) -> None:
    gpu = Gpu.of_sm(sm)
    for element in ELEMENTS:
        there = shipped([gpu], [element], KERNELS, INPUTS)
        for tokens in range(1, 65):
            for inputs in INPUTS:
                assert csr_variant(element=element, base=element, tokens=tokens, inputs=inputs, gpu=gpu) in there


def test_what_it_writes_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    main(["--out", str(tmp_path / "made"), "--sm", "90", "--dtype", "float16", "--kernel", "transpose"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "made")
    variant = Variant(kernel="transpose", element="float16", base="float16")
    assert image_in(tmp_path / "made", variant, 90)[:4] == b"\x7fELF"
    assert b".target sm_80" in image_in(tmp_path / "made", variant, 86)
    with pytest.raises(FileNotFoundError, match=r"kernels\.cuda\.aot"):
        image_in(tmp_path, variant, 90)


@pytest.mark.parametrize("words", [["--dtype", "float32", "--kernel", "blocks"], ["--inputs", "0"], ["--sm", "70"]])
def test_nothing_to_compile_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "made"), *words])
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
