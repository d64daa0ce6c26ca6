"""Counting in PTX and machine code, on lines written by hand and where a tool is missing."""

from __future__ import annotations

import pytest

from slimtask.kernels import sass

PTX = """
\twgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, 1;
\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r2}, {%r3}, {%r4};
\tcp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
\tcp.async.ca.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x4, %r2;
\t@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
\t@%p1 ld.global.b16 { %rs1 }, [ %rd1 + 0 ];
\tld.global.b32 { %r1 }, [ %rd1 + 0 ];
"""
USAGE = "Function k:\n REG:40 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:436 TEXTURE:0\n"
CODE = "/*0000*/ LDL R1, [R2] ;\n/*0010*/ STL.64 [R2], R4 ;\n/*0020*/ LDGSTS.E.128 [R1], [R2] ;\n"


def test_every_kind_is_counted_where_it_stands(monkeypatch) -> None:
    monkeypatch.setattr(sass, "run", lambda _, option, path: USAGE if option == "-res-usage" else CODE)
    found = sass.counts(PTX, b"")
    assert (found.wgmma, found.mma, found.cp_async, found.cp_async_16) == (1, 1, 2, 1)
    assert (found.loads_16, found.loads_narrow) == (1, 1)
    assert (found.spills, found.registers, found.stack_bytes, found.static_shared_bytes) == (2, 40, 16, 1024)


def test_an_empty_listing_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(sass, "run", lambda *_: "")
    with pytest.raises(ValueError, match=r"^cuobjdump lists no kernel in this cubin; compile it again$"):
        sass.counts(PTX, b"")


def test_a_missing_tool_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"^'cuobjdumb' is neither in triton's wheel nor on PATH;"):
        sass.tool("cuobjdumb")
