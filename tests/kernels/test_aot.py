"""What the compiler makes of the kernels without a GPU, and what a host finds in the manifest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slimtask.kernels.aot import OLDEST_PTX, SCRATCH, Artifact, compile_variant, main
from slimtask.kernels.triton.tiles import GPUS, RAGGED, block_tile, candidates, row_tile
from slimtask.kernels.triton.variants import Variant

ROOT = Path(__file__).parents[2]
VIT_FC1 = {"tasks": 4, "rows": 1024, "outputs": 3072, "inputs": 768}


def rows(sm: int, **changes: object) -> Variant:
    settings = {"epilogue": "bias_gelu", "scatter": True, "tile": row_tile(sm, **VIT_FC1), **changes}
    return Variant(**{"kernel": "rows", "sm": sm, "dtype": "bfloat16", **settings})


def blocks(sm: int, **changes: object) -> Variant:
    settings = {"epilogue": "bias_residual", "tile": block_tile(sm), **changes}
    return Variant(**{"kernel": "blocks", "sm": sm, "dtype": "bfloat16", **settings})


@pytest.fixture(scope="module")
def hopper() -> Artifact:
    return compile_variant(rows(90))


@pytest.fixture(scope="module")
def artifacts(hopper: Artifact) -> dict[tuple[str, int], Artifact]:
    """Return both kernels for the two generations of tensor cores, and one of each for the rest."""
    variants = [rows(80), rows(89), rows(120), blocks(86), blocks(90), blocks(120)]
    made = [hopper, *map(compile_variant, variants)]
    return {(artifact.name.split("_")[0], artifact.sm): artifact for artifact in made}


def test_all_compute_capabilities_are_compiled_for(artifacts) -> None:
    assert {sm for _, sm in artifacts} == set(GPUS)


def test_tensor_cores_do_the_products(artifacts) -> None:
    for (_, sm), artifact in artifacts.items():
        assert (artifact.counts.wgmma > 0) == (sm == 90)
        assert (artifact.counts.mma > 0) == (sm != 90)


def test_copies_are_asynchronous_and_16_bytes_wide(artifacts) -> None:
    for artifact in artifacts.values():
        assert artifact.counts.cp_async_16 >= 8
        assert artifact.counts.loads_narrow <= 1  # the bias, once for each output


def test_nothing_is_spilled(artifacts) -> None:
    for artifact in artifacts.values():
        assert artifact.counts.spills == artifact.counts.stack_bytes == 0
        assert 0 < artifact.counts.registers * artifact.threads <= 65536


def test_shared_memory_is_what_the_table_says_and_fits(artifacts) -> None:
    for (kernel, sm), artifact in artifacts.items():
        assert 0 < artifact.shared_bytes <= GPUS[sm].shared_bytes
        if kernel == "rows":
            tile = row_tile(sm, **VIT_FC1)
            assert artifact.shared_bytes == tile.shared_bytes(sm, 16)
        if sm != 90:
            assert artifact.shared_bytes <= 48 * 1024


def test_without_the_promised_multiples_nothing_is_pipelined() -> None:
    """The trap: this is what Triton makes ahead of time of the same kernel when nobody promises alignment."""
    bare = compile_variant(rows(80), hints=False)
    assert bare.counts.cp_async == bare.counts.loads_16 == 0
    assert bare.counts.loads_narrow > 16
    assert bare.counts.mma > 0


def test_a_ragged_variant_compiles_without_spills() -> None:
    artifact = compile_variant(rows(80, aligned=False, tile=RAGGED))
    assert artifact.counts.spills == 0
    assert artifact.counts.mma > 0


def test_the_largest_blocks_in_float32_spill_nothing() -> None:
    tile = block_tile(80, height=128, width=128, bits=32)
    artifact = compile_variant(Variant(kernel="blocks", sm=80, dtype="float32", tile=tile, epilogue="bias_gelu"))
    assert artifact.counts.spills == artifact.counts.stack_bytes == 0


def test_float32_stays_off_the_tensor_cores() -> None:
    artifact = compile_variant(rows(90, dtype="float32", tile=candidates(90, 32)[0]))
    assert artifact.counts.wgmma == artifact.counts.mma == artifact.counts.spills == 0
    assert "fma.rn.f32" in artifact.ptx


def test_parameters_are_those_of_the_ptx_with_tritons_two_at_the_end(hopper: Artifact) -> None:
    names = [name for name, _ in hopper.parameters]
    pointers = ["x", "index", "count", "weight", "bias", "out"]
    assert names == [*pointers, "N", "R", "K", "M", "residual_step", *SCRATCH]
    assert hopper.ptx.count(".param .u64") == len(pointers) + len(SCRATCH)
    assert hopper.entry == "rows_kernel"


def test_the_grid_covers_every_row_and_output(hopper: Artifact) -> None:
    assert hopper.programs({"R": 129, "M": 768, "T": 3}) == (2, 6, 3)
    assert hopper.threads == 256


def test_the_same_variant_compiles_to_the_same_bytes_without_a_path(hopper: Artifact) -> None:
    again = compile_variant(rows(90))
    assert (again.ptx, again.cubin) == (hopper.ptx, hopper.cubin)
    assert ".py" not in hopper.ptx
    assert str(ROOT).encode() not in hopper.cubin


def test_an_older_ptx_version_is_written_on_demand() -> None:
    artifact = compile_variant(rows(80), ptx_version=80)
    assert ".version 8.0" in artifact.ptx


def test_a_ptx_version_too_old_for_the_gpu_is_one_sentence(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "kernels"), "--sm", "90", "--kernel", "blocks", "--ptx-version", "70"])
    assert capsys.readouterr().err == "aot: PTX of version 7.0 has no sm_90; take 80 or later\n"
    assert not (tmp_path / "kernels").exists()
    assert OLDEST_PTX.keys() == GPUS.keys()


def test_what_the_assembler_refuses_is_one_sentence(tmp_path: Path, monkeypatch, capsys) -> None:
    import triton
    from triton.runtime.errors import PTXASError

    def refuse(*_: object, **__: object) -> None:
        print("all of the PTX")
        raise PTXASError(
            "codegen error\n`ptxas` stderr:\nptxas a.ptx, line 6; error   : no such version\nfatal: aborted"
        )

    monkeypatch.setattr(triton, "compile", refuse)
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "kernels"), "--sm", "90", "--kernel", "blocks", "--ptx-version", "99"])
    out, error = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"aot: the PTX of version 9\.9 of blocks_bf16_\w+ cannot be assembled \(no such version\); .*\n", error
    )
    assert not (tmp_path / "kernels").exists()


def test_a_folder_that_cannot_be_is_refused_before_anything_is_compiled(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("slimtask.kernels.aot.compile_variant", lambda *_, **__: pytest.fail("nothing to compile"))
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for folder in (taken, taken / "deeper"):
        with pytest.raises(SystemExit, match="2"):
            main(["--out", str(folder), "--sm", "90"])
        assert capsys.readouterr().err == f"aot: '{taken}' is no folder; give one\n"
    assert taken.read_text() == "mine"


def test_the_command_writes_what_its_manifest_says(tmp_path: Path, monkeypatch, capsys) -> None:
    variants = [blocks(80)]
    monkeypatch.setattr("slimtask.kernels.aot.shipped", lambda *_: iter(variants))
    main(["--out", str(tmp_path / "kernels"), "--sm", "80"])
    path = Path(capsys.readouterr().out.strip())
    manifest = json.loads(path.read_text())
    (kernel,) = manifest["kernels"]
    assert kernel["name"] == variants[0].name
    for kind in ("ptx", "cubin"):
        content = (path.parent / kernel[kind]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == kernel[f"{kind}_sha256"]
    assert kernel["grid"] == [["N", 128], ["M", 64], ["T", 1]]
    assert kernel["counts"]["cp_async_16"] > 0
    assert {each.name for each in path.parent.iterdir()} == {"manifest.json", kernel["ptx"], kernel["cubin"]}


@pytest.mark.parametrize(
    ("name", "left"),
    [("compile_variant", "nothing was written"), ("write_whole", "some kernels may be new in '{}', each file whole")],
)
def test_an_interrupt_is_one_sentence(name: str, left: str, tmp_path: Path, hopper, monkeypatch, capsys) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slimtask.kernels.aot.shipped", lambda *_: iter([rows(90)]))
    monkeypatch.setattr("slimtask.kernels.aot.compile_variant", lambda *_, **__: hopper)
    monkeypatch.setattr(f"slimtask.kernels.aot.{name}", interrupted)
    with pytest.raises(SystemExit, match="130"):
        main(["--out", str(tmp_path / "kernels")])
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"aot: interrupted; {left.format(tmp_path / 'kernels')}; the same command writes all."
    assert not (tmp_path / "kernels").exists()


def test_a_full_disk_is_named_with_its_cure(tmp_path: Path, hopper, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("slimtask.kernels.aot.shipped", lambda *_: iter([rows(90)]))
    monkeypatch.setattr("slimtask.kernels.aot.compile_variant", lambda *_, **__: hopper)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "kernels")])
    where = tmp_path / "kernels" / f"{hopper.name}.ptx"
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"aot: the disk is full at '{where}'; make room and run the command again."


def test_under_the_interpreter_it_refuses_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slimtask.kernels.aot", "--out", tmp_path, "--sm", "80", "--kernel", "blocks"]
    done = subprocess.run(command, env={"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "aot: TRITON_INTERPRET is set, which replaces the compiler; unset it to compile ahead of time\n"
    )
    assert list(tmp_path.iterdir()) == []
